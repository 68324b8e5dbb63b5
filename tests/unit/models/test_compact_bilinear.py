"""Compact bilinear fusion: brute force over the outer product, laws of the product, statistics of
the sketch, gradients, precision.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from vidgraph.models.compact_bilinear import CompactBilinear, signed_sqrt

SIZES = [([5, 5], 8), ([4, 6], 7), ([5, 5, 5], 7), ([3, 5, 4], 16), ([2, 3, 2, 3], 11)]


def some_inputs(
    channels: list[int], *leading: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*leading, size, generator=generator, dtype=dtype) for size in channels]


def hashes(fusion: CompactBilinear) -> list[tuple[Tensor, Tensor]]:
    return [
        (fusion.get_buffer(f"buckets_{i}"), fusion.get_buffer(f"signs_{i}"))
        for i in range(len(fusion.in_channels))
    ]


def brute_force(fusion: CompactBilinear, inputs: list[Tensor]) -> Tensor:
    """One addition for every combination of channels, one row: [d]."""
    size = fusion.out_channels
    found, drawn = torch.zeros(size, dtype=inputs[0].dtype), hashes(fusion)
    for channels in itertools.product(*(range(size) for size in fusion.in_channels)):
        bucket = sum(int(h[a]) for (h, _), a in zip(drawn, channels, strict=True)) % size
        found[bucket] += math.prod(
            float(s[a]) * float(x[a]) for (_, s), x, a in zip(drawn, inputs, channels, strict=True)
        )
    return found


@pytest.mark.parametrize(("channels", "size"), SIZES)
def test_equals_the_sum_over_all_combinations_of_channels(channels: list[int], size: int) -> None:
    fusion, inputs = CompactBilinear(channels, size, seed=3), some_inputs(channels, 3)
    fused = fusion(*inputs)
    for row in range(3):
        expected = brute_force(fusion, [x[row] for x in inputs])
        torch.testing.assert_close(fused[row], expected, rtol=1e-12, atol=1e-13)


def test_two_inputs_by_hand() -> None:
    """(1, 2) and (3, 5, 7) into 4 buckets: 1 * 3 goes to 0 + 1, 1 * -5 to 0 + 3, 1 * 7 to 0 + 1; -2
    times those to 3 + 1, 3 + 3, 3 + 1."""
    fusion = CompactBilinear([2, 3], 4).double()
    fusion.buckets_0, fusion.signs_0 = torch.tensor([0, 3]), torch.tensor([1.0, -1.0])
    fusion.buckets_1, fusion.signs_1 = torch.tensor([1, 3, 1]), torch.tensor([1.0, -1.0, 1.0])
    fused = fusion(torch.tensor([1.0, 2]).double(), torch.tensor([3.0, 5, 7]).double())
    assert fused.tolist() == pytest.approx([-20, 10, 10, -5])


def test_one_input_is_its_count_sketch() -> None:
    fusion = CompactBilinear([6], 4)
    (buckets, signs), x = hashes(fusion)[0], some_inputs([6])[0]
    expected = [sum(float(signs[a] * x[a]) for a in range(6) if buckets[a] == j) for j in range(4)]
    assert fusion(x).tolist() == pytest.approx(expected)


# ---- laws ----------------------------------------------------------------------------------------


def test_cells_are_fused_one_by_one_and_leading_shapes_broadcast() -> None:
    fusion = CompactBilinear([5, 4], 7)
    x, y = some_inputs([5, 4], 2, 3, 6)  # [B, H, W, n]
    fused = fusion(x, y)
    assert fused.shape == (2, 3, 6, 7)
    torch.testing.assert_close(fused[1, 2, 4], fusion(x[1, 2, 4], y[1, 2, 4]))
    vector = y[:, 0, 0]  # [B, n]
    expected = fusion(x, vector[:, None, None].expand_as(y))
    torch.testing.assert_close(fusion(x, vector[:, None, None]), expected)
    assert fusion(x[:0], y[:0]).shape == (0, 3, 6, 7)


# ---- hashes --------------------------------------------------------------------------------------


def test_hashes_follow_from_the_seed_and_the_index_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = CompactBilinear([64, 64, 64], 32, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again, other = (CompactBilinear([64, 64, 64], 32, seed=seed) for seed in (1, 2))
    for (h, s), (h2, s2), (h3, s3) in zip(hashes(first), hashes(again), hashes(other), strict=True):
        assert torch.equal(h, h2)
        assert torch.equal(s, s2)
        assert not torch.equal(h, h3)
        assert not torch.equal(s, s3)
        assert set(s.tolist()) == {-1.0, 1.0}
        assert 0 <= int(h.min()) <= int(h.max()) < 32
    for (h, s), (h2, s2) in itertools.combinations(hashes(first), 2):
        assert (h == h2).sum() < 10  # 2 of 64 are expected
        assert 15 < (s == s2).sum() < 49


# ---- statistics ----------------------------------------------------------------------------------

WIDTH, DRAWS = 64, 400


def noisy_pairs(order: int, seed: int = 7) -> tuple[list[Tensor], list[Tensor]]:
    """Vectors x and y = x + noise, `order` of each."""
    draw = torch.Generator().manual_seed(seed)
    xs = [torch.randn(WIDTH, generator=draw, dtype=torch.float64) for _ in range(order)]
    return xs, [x + 0.5 * torch.randn(WIDTH, generator=draw, dtype=torch.float64) for x in xs]


def sketched_products(xs: list[Tensor], ys: list[Tensor], out_channels: int) -> Tensor:
    """<z(x), z(y)> for many seeds."""
    found = []
    for seed in range(DRAWS):
        fusion = CompactBilinear([WIDTH] * len(xs), out_channels, seed=seed)
        found.append(fusion(*xs) @ fusion(*ys))
    return torch.stack(found)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_product_of_sketches_is_the_product_of_products_in_the_mean(order: int) -> None:
    """Unbiased; the deviation is under its bound, and halves with four times as many buckets."""
    xs, ys = noisy_pairs(order)
    expected = math.prod(float(x @ y) for x, y in zip(xs, ys, strict=True))
    lengths = math.prod(float(x.norm() * y.norm()) for x, y in zip(xs, ys, strict=True))
    deviations = []
    for size in (256, 1024):
        found = sketched_products(xs, ys, size)
        deviations.append(float(found.std()))
        assert abs(float(found.mean()) - expected) <= 5 * deviations[-1] / math.sqrt(DRAWS)
        assert deviations[-1] <= math.sqrt(3**order / size) * lengths
    assert deviations[1] == pytest.approx(deviations[0] / 2, rel=0.25)


def test_deviation_of_one_sketch_is_that_of_theory() -> None:
    """Var = (|x|^2 |y|^2 + <x, y>^2 - 2 sum x_a^2 y_a^2) / d."""
    (x,), (y,) = noisy_pairs(1)
    theory = float((x @ x) * (y @ y) + (x @ y) ** 2 - 2 * (x * y).square().sum()) / 256
    assert float(sketched_products([x], [y], 256).var()) == pytest.approx(theory, rel=0.25)


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("post", ["none", "ssqrt", "l2", "ssqrt_l2"])
def test_gradients_of_first_and_second_order(post: Any) -> None:
    fusion = CompactBilinear([4, 3, 5], 7, post=post)
    inputs = [x.requires_grad_() for x in some_inputs([4, 3, 5], 2)]
    assert torch.autograd.gradcheck(fusion, inputs)
    if "ssqrt" not in post:
        assert torch.autograd.gradgradcheck(fusion, inputs)


@pytest.mark.parametrize("post", ["none", "ssqrt", "l2", "ssqrt_l2"])
@pytest.mark.parametrize("dead", [[0], [1], [0, 1]])
def test_zeros_give_zeros_and_finite_gradients(post: Any, dead: list[int]) -> None:
    """Cells where a ReLU let nothing through, in one input or in all."""
    fusion = CompactBilinear([6, 5], 8, post=post)
    inputs = [x.float() for x in some_inputs([6, 5], 3)]
    inputs = [torch.zeros_like(x) if i in dead else x for i, x in enumerate(inputs)]
    for x in inputs:
        x.requires_grad_()
    fused = fusion(*inputs)
    assert not fused.any()
    (fused * torch.arange(1.0, 9)).sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in inputs)
    assert [bool(x.grad.any()) for x in inputs] == [dead == [i] for i in range(2)]


def test_what_follows_by_hand() -> None:
    inputs = some_inputs([8, 8], 4)
    plain = CompactBilinear([8, 8], 16)(*inputs)
    root = plain.sign() * plain.abs().sqrt()
    for options, expected, atol in (
        ({"post": "ssqrt"}, root, 0.01),
        ({"post": "l2"}, plain / plain.norm(dim=-1, keepdim=True), 1e-7),
        ({"post": "ssqrt_l2", "scale": 4.0}, 4 * root / root.norm(dim=-1, keepdim=True), 0.01),
    ):
        found = CompactBilinear([8, 8], 16, **options)(*inputs)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=atol)
    x = torch.tensor([-4.0, 0, 9], dtype=torch.float64, requires_grad=True)
    rooted = signed_sqrt(x)
    assert rooted.tolist() == pytest.approx([-2, 0, 3], abs=1e-4)
    rooted.sum().backward()
    assert x.grad.tolist() == pytest.approx([1 / 4, 100, 1 / 6], rel=1e-4)


# ---- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_float32(kind: torch.dtype) -> None:
    fusion = CompactBilinear([32, 32, 32], 64)
    inputs = [x.to(kind) for x in some_inputs([32, 32, 32], 5)]
    with torch.autocast("cpu", kind):
        fused = fusion(*inputs)
    assert fused.dtype == torch.float32
    assert torch.equal(fused, fusion(*(x.float() for x in inputs)))


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_the_type_of_the_inputs_comes_back(kind: torch.dtype, tolerance: float) -> None:
    inputs = some_inputs([32, 32], 5)
    wide = CompactBilinear([32, 32], 64)(*inputs)
    fused = CompactBilinear([32, 32], 64).to(kind)(*(x.to(kind) for x in inputs))
    assert fused.dtype == kind
    torch.testing.assert_close(
        fused.double(), wide, rtol=tolerance, atol=tolerance * float(wide.abs().max())
    )


def test_inputs_of_other_channels_are_one_line() -> None:
    fusion = CompactBilinear([5, 4], 7)
    for inputs in ([torch.zeros(2, 5)], [torch.zeros(2, 4), torch.zeros(2, 5)]):
        with pytest.raises(ValueError, match=r"takes \(5, 4\) channels, last"):
            fusion(*inputs)
