"""Compact bilinear fusion: brute force over the outer product, laws of the product, statistics of
the sketch, gradients, precision.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor

from vidgraph.errors import RecipeError
from vidgraph.models.compact_bilinear import CompactBilinear, count_sketch, signed_sqrt

SIZES = [([5, 5], 8), ([5, 5], 7), ([4, 6], 7), ([5, 5, 5], 7), ([3, 5, 4], 16), ([2, 3, 2, 3], 11)]


def some_inputs(
    in_dims: list[int], *leading: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*leading, size, generator=generator, dtype=dtype) for size in in_dims]


def hashes(fusion: CompactBilinear) -> list[tuple[Tensor, Tensor]]:
    return [
        (fusion.get_buffer(f"buckets_{i}"), fusion.get_buffer(f"signs_{i}"))
        for i in range(len(fusion.in_dims))
    ]


def brute_force(fusion: CompactBilinear, inputs: list[Tensor]) -> Tensor:
    """One addition for every combination of channels, one row: [d]."""
    found = torch.zeros(fusion.out_dim, dtype=inputs[0].dtype)
    drawn = hashes(fusion)
    for channels in itertools.product(*(range(size) for size in fusion.in_dims)):
        bucket = (
            sum(int(buckets[a]) for (buckets, _), a in zip(drawn, channels, strict=True))
            % fusion.out_dim
        )
        found[bucket] += math.prod(
            float(s[a]) * float(x[a]) for (_, s), x, a in zip(drawn, inputs, channels, strict=True)
        )
    return found


@pytest.mark.parametrize(("in_dims", "out_dim"), SIZES)
@pytest.mark.parametrize("deterministic", [False, True])
def test_equals_the_sum_over_all_combinations_of_channels(
    in_dims: list[int], out_dim: int, deterministic: bool
) -> None:
    fusion = CompactBilinear(in_dims, out_dim, seed=3, deterministic=deterministic)
    inputs = some_inputs(in_dims, 3)
    fused = fusion(*inputs)
    for row in range(3):
        torch.testing.assert_close(
            fused[row], brute_force(fusion, [x[row] for x in inputs]), rtol=1e-12, atol=1e-13
        )


def test_two_inputs_by_hand() -> None:
    """(1, 2) and (3, 5, 7) into 4 buckets: 1 * 3 goes to 0 + 1, 1 * -5 to 0 + 3, 1 * 7 to 0 + 1; -2
    times those to 3 + 1, 3 + 3, 3 + 1.
    """
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
    assert count_sketch(x, buckets, signs, 4).tolist() == pytest.approx(expected)


# ---- laws ----------------------------------------------------------------------------------------


def test_linear_in_each_input() -> None:
    fusion, (x, y, z) = CompactBilinear([5, 4, 6], 9), some_inputs([5, 4, 6], 2)
    other = some_inputs([5, 4, 6], 2, seed=1)[1]
    torch.testing.assert_close(fusion(3 * x, y, z), 3 * fusion(x, y, z))
    torch.testing.assert_close(
        fusion(x, y + 2 * other, z), fusion(x, y, z) + 2 * fusion(x, other, z)
    )


def test_inputs_may_change_places_with_their_hashes() -> None:
    fusion, swapped = CompactBilinear([5, 4, 6], 9), CompactBilinear([6, 4, 5], 9)
    for i, (buckets, signs) in enumerate(reversed(hashes(fusion))):
        swapped.get_buffer(f"buckets_{i}").copy_(buckets)
        swapped.get_buffer(f"signs_{i}").copy_(signs)
    x, y, z = some_inputs([5, 4, 6], 2)
    torch.testing.assert_close(fusion(x, y, z), swapped(z, y, x))


def test_places_of_a_map_are_fused_each_by_itself() -> None:
    """Channels first and last, a batch and one of it, and a vector beside a map."""
    fusion = CompactBilinear([5, 4], 7)
    x, y = some_inputs([5, 4], 2, 3, 6)  # [B, H, W, n]
    fused = fusion(x, y)
    assert fused.shape == (2, 3, 6, 7)
    torch.testing.assert_close(fused[1, 2, 4], fusion(x[1, 2, 4], y[1, 2, 4]))
    torch.testing.assert_close(
        fusion.of_maps(x.movedim(-1, 1), y.movedim(-1, 1)), fused.movedim(-1, 1)
    )
    vector = y[:, 0, 0]  # [B, n]
    expected = fusion(x, vector[:, None, None].expand_as(y))
    torch.testing.assert_close(fusion(x, vector[:, None, None]), expected)
    torch.testing.assert_close(fusion.of_maps(x.movedim(-1, 1), vector), expected.movedim(-1, 1))


def test_fusing_then_pooling_is_not_pooling_then_fusing() -> None:
    """The map of the first level is pooled after its fusion; products of means are other
    numbers.
    """
    fusion, (x, y) = CompactBilinear([5, 4], 16), some_inputs([5, 4], 49)
    after, before = fusion(x, y).mean(dim=0), fusion(x.mean(dim=0), y.mean(dim=0))
    assert (after - before).norm() > 0.5 * after.norm()


def test_no_rows_give_no_rows() -> None:
    fusion = CompactBilinear([5, 4, 3], 7)
    assert fusion(*some_inputs([5, 4, 3], 0)).shape == (0, 7)


# ---- hashes --------------------------------------------------------------------------------------


def test_hashes_follow_from_the_seed_and_the_place_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = CompactBilinear([64, 64, 64], 32, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again, other = (
        CompactBilinear([64, 64, 64], 32, seed=1),
        CompactBilinear([64, 64, 64], 32, seed=2),
    )
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


def test_saved_with_the_weights_and_not_learned() -> None:
    fusion, fresh = CompactBilinear([6, 5], 9, seed=1), CompactBilinear([6, 5], 9, seed=2)
    assert list(fusion.parameters()) == []
    inputs = some_inputs([6, 5], 3)
    assert not torch.equal(fusion(*inputs), fresh(*inputs))
    fresh.load_state_dict(fusion.state_dict())
    assert torch.equal(fusion(*inputs), fresh(*inputs))


# ---- statistics ----------------------------------------------------------------------------------

WIDTH, DRAWS = 64, 400


def sketched_products(
    order: int, out_dim: int, shared: bool = False
) -> tuple[Tensor, float, float]:
    """<z(x), z(y)> for many seeds, y = x + noise; its expectation, and the product of all
    lengths.
    """
    draw = torch.Generator().manual_seed(7)
    xs = [torch.randn(WIDTH, generator=draw, dtype=torch.float64) for _ in range(order)]
    ys = [x + 0.5 * torch.randn(WIDTH, generator=draw, dtype=torch.float64) for x in xs]
    found = []
    for seed in range(DRAWS):
        fusion = CompactBilinear([WIDTH] * order, out_dim, seed=seed)
        if shared:
            for i in range(1, order):
                fusion.get_buffer(f"buckets_{i}").copy_(fusion.buckets_0)
                fusion.get_buffer(f"signs_{i}").copy_(fusion.signs_0)
        found.append(fusion(*xs) @ fusion(*ys))
    lengths = math.prod(float(x.norm() * y.norm()) for x, y in zip(xs, ys, strict=True))
    return torch.stack(found), math.prod(float(x @ y) for x, y in zip(xs, ys, strict=True)), lengths


@pytest.mark.parametrize("order", [1, 2, 3])
def test_product_of_sketches_is_the_product_of_products_in_the_mean(order: int) -> None:
    """Unbiased; the deviation is under its bound, and halves where there are four times as many
    buckets.
    """
    deviations = []
    for out_dim in (256, 1024):
        found, expected, lengths = sketched_products(order, out_dim)
        deviations.append(float(found.std()))
        assert abs(float(found.mean()) - expected) <= 5 * deviations[-1] / math.sqrt(DRAWS)
        assert deviations[-1] <= math.sqrt(3**order / out_dim) * lengths
    assert deviations[1] == pytest.approx(deviations[0] / 2, rel=0.25)


def test_deviation_of_one_sketch_is_that_of_theory() -> None:
    """Var = (|x|^2 |y|^2 + <x, y>^2 - 2 sum x_a^2 y_a^2) / d."""
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(WIDTH, generator=draw, dtype=torch.float64)
    y = x + 0.5 * torch.randn(WIDTH, generator=draw, dtype=torch.float64)
    theory = float((x @ x) * (y @ y) + (x @ y) ** 2 - 2 * (x * y).square().sum()) / 256
    found, _, _ = sketched_products(1, 256)
    assert float(found.var()) == pytest.approx(theory, rel=0.25)


def test_shared_hashes_are_biased() -> None:
    """<x0, y1> <x1, y0> comes on top: what one seed for all inputs would give."""
    draw = torch.Generator().manual_seed(3)
    common = torch.randn(WIDTH, generator=draw, dtype=torch.float64)
    xs, ys = (
        [common + 0.5 * torch.randn(WIDTH, generator=draw, dtype=torch.float64) for _ in range(2)]
        for _ in range(2)
    )
    expected = float((xs[0] @ ys[0]) * (xs[1] @ ys[1]))
    means, errors = [], []
    for shared in (False, True):
        found = []
        for seed in range(DRAWS):
            fusion = CompactBilinear([WIDTH, WIDTH], 1024, seed=seed)
            if shared:
                fusion.buckets_1, fusion.signs_1 = fusion.buckets_0, fusion.signs_0
            found.append(fusion(*xs) @ fusion(*ys))
        means.append(float(torch.stack(found).mean()))
        errors.append(float(torch.stack(found).std()) / math.sqrt(DRAWS))
    assert abs(means[0] - expected) <= 5 * errors[0]
    assert means[1] - expected > 20 * errors[1]


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"deterministic": True},
        {"post": "ssqrt"},
        {"post": "ssqrt_l2"},
        {"pre_l2": True, "post": "l2"},
    ],
)
def test_gradients_of_first_and_second_order(options: dict[str, Any]) -> None:
    fusion = CompactBilinear([4, 3, 5], 7, **options)
    inputs = [x.requires_grad_() for x in some_inputs([4, 3, 5], 2)]
    assert torch.autograd.gradcheck(fusion, inputs)
    if "ssqrt" not in options.get("post", ""):
        assert torch.autograd.gradgradcheck(fusion, inputs)


@pytest.mark.parametrize("post", ["none", "ssqrt", "l2", "ssqrt_l2"])
@pytest.mark.parametrize("pre_l2", [False, True])
def test_zeros_give_zeros_and_finite_gradients(post: Any, pre_l2: bool) -> None:
    """Places where a ReLU let nothing through, in one input or in all."""
    fusion = CompactBilinear([6, 5], 8, post=post, pre_l2=pre_l2)
    for dead in ([0], [1], [0, 1]):
        inputs = [x.float() for x in some_inputs([6, 5], 3)]
        for i in dead:
            inputs[i] = torch.zeros_like(inputs[i])
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

    def with_options(**options: Any) -> Tensor:
        return CompactBilinear([8, 8], 16, **options)(*inputs)

    root = plain.sign() * plain.abs().sqrt()
    torch.testing.assert_close(with_options(post="ssqrt"), root, rtol=0, atol=0.01)
    torch.testing.assert_close(with_options(post="l2"), plain / plain.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(
        with_options(post="ssqrt_l2", scale=4.0),
        4 * root / root.norm(dim=-1, keepdim=True),
        rtol=0,
        atol=0.01,
    )
    torch.testing.assert_close(
        with_options(post="ssqrt_l2").norm(dim=-1), torch.ones(4, dtype=torch.float64)
    )
    lengths = math.prod(x.norm(dim=-1, keepdim=True) for x in inputs)
    torch.testing.assert_close(with_options(pre_l2=True), plain / lengths)
    x = torch.tensor([-4.0, 0, 9], dtype=torch.float64, requires_grad=True)
    rooted = signed_sqrt(x)
    assert rooted.tolist() == pytest.approx([-2, 0, 3], abs=1e-4)
    rooted.sum().backward()
    assert x.grad.tolist() == pytest.approx([1 / 4, 100, 1 / 6], rel=1e-4)


# ---- precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_float32(kind: torch.dtype) -> None:
    fusion, inputs = (
        CompactBilinear([32, 32, 32], 64),
        [x.to(kind) for x in some_inputs([32, 32, 32], 5)],
    )
    with torch.autocast("cpu", kind):
        fused = fusion(*inputs)
    assert fused.dtype == torch.float32
    assert torch.equal(fused, fusion(*(x.float() for x in inputs)))


def test_the_type_of_the_inputs_comes_back() -> None:
    inputs = some_inputs([32, 32], 5)
    wide = CompactBilinear([32, 32], 64)(*inputs)
    for kind, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        fused = CompactBilinear([32, 32], 64).to(kind)(*(x.to(kind) for x in inputs))
        assert fused.dtype == kind
        torch.testing.assert_close(
            fused.double(), wide, rtol=tolerance, atol=tolerance * float(wide.abs().max())
        )


def test_products_beyond_half_precision_stay_finite() -> None:
    inputs = [30 * x.relu().float() for x in some_inputs([1024] * 3, 2)]
    fusion = CompactBilinear([1024] * 3, 4096)
    spectra = [
        torch.fft.rfft(count_sketch(x, *drawn, 4096))
        for x, drawn in zip(inputs, hashes(fusion), strict=True)
    ]
    assert math.prod(spectra).abs().max() > 65504
    with torch.autocast("cpu", torch.float16):
        assert torch.isfinite(fusion(*(x.half() for x in inputs))).all()


def test_shapes_without_numbers() -> None:
    with torch.device("meta"):
        fusion = CompactBilinear([1024] * 3, 4095, post="ssqrt_l2")
        assert fusion.of_maps(*[torch.empty(2, 1024, 7, 7)] * 3).shape == (2, 4095, 7, 7)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_equals_eager() -> None:
    fusion, inputs = (
        CompactBilinear([16, 16, 16], 33, post="ssqrt_l2"),
        some_inputs([16] * 3, 5, dtype=torch.float32),
    )
    assert_close_to_scale(torch.compile(fusion)(*inputs), fusion(*inputs), rel=1e-4)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("in_dims", "out_dim", "post", "words"),
    [
        ([], 8, "none", "one input or more"),
        ([4, 0], 8, "none", "sizes from 1"),
        ([4], 0, "none", "sizes from 1"),
        ([4], 8, "sqrt", "did you mean 'ssqrt'"),
    ],
)
def test_what_cannot_be_built(in_dims: list[int], out_dim: int, post: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        CompactBilinear(in_dims, out_dim, post=post)


def test_inputs_of_other_channels_are_one_line() -> None:
    fusion = CompactBilinear([5, 4], 7)
    for inputs in ([torch.zeros(2, 5)], [torch.zeros(2, 4), torch.zeros(2, 5)]):
        with pytest.raises(ValueError, match=r"takes \(5, 4\) channels, last"):
            fusion(*inputs)
