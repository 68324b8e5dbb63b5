"""Attention pooling: the start at average pooling, a plain form, laws of a softmax over places,
gradients.
"""

from __future__ import annotations

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn

from vidgraph.models.attention_pool import AttentionPool


def some_maps(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features [3, 5, 4, 6] and guidance [3, 7, 4, 6]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 5, 4, 6, generator=generator), torch.randn(
        3, 7, 4, 6, generator=generator
    )


def awake(pool: AttentionPool) -> AttentionPool:
    """With a second convolution that is not zero."""
    nn.init.normal_(pool.conv2.weight)
    return pool


def test_starts_as_average_pooling() -> None:
    features, guidance = some_maps()
    pooled, weights = AttentionPool(7)(features, guidance)
    assert_close_to_scale(weights, torch.full((3, 4, 6), 1 / 24))
    assert_close_to_scale(pooled, features.mean(dim=(2, 3)))


@pytest.mark.parametrize("relu", [True, False])
def test_equals_a_loop_over_places(relu: bool) -> None:
    torch.manual_seed(0)
    pool, (features, guidance) = awake(AttentionPool(7, width=9, relu=relu)), some_maps()
    nn.init.normal_(pool.conv1.bias)
    pooled, weights = pool(features, guidance)
    w1, w2 = pool.conv1.weight[:, :, 0, 0], pool.conv2.weight[0, :, 0, 0]
    for b in range(3):
        hidden = [w1 @ guidance[b, :, y, x] + pool.conv1.bias for y in range(4) for x in range(6)]
        raised = torch.stack([(w2 @ (h.relu() if relu else h)).exp() for h in hidden])
        expected = raised / raised.sum()
        assert_close_to_scale(weights[b].flatten(), expected)
        by_place = [expected[y * 6 + x] * features[b, :, y, x] for y in range(4) for x in range(6)]
        assert_close_to_scale(pooled[b], torch.stack(by_place).sum(dim=0))


def test_weights_sum_to_one_over_the_places_of_each_map() -> None:
    """A softmax over the one channel would be 1 everywhere: an attention that does nothing."""
    torch.manual_seed(0)
    _, weights = awake(AttentionPool(7))(*some_maps())
    assert_close_to_scale(weights.sum(dim=(1, 2)), torch.ones(3))
    assert weights.max() > 3 * weights.min()


def test_one_strong_place_is_what_is_pooled() -> None:
    pool, (features, guidance) = AttentionPool(7, width=2), some_maps()
    nn.init.ones_(pool.conv1.weight)
    nn.init.constant_(pool.conv2.weight, 10.0)
    guidance = torch.zeros_like(guidance)
    guidance[:, :, 2, 5] = 5
    assert_close_to_scale(pool(features, guidance)[0], features[:, :, 2, 5])


def test_another_order_of_places_and_a_batch_of_one() -> None:
    torch.manual_seed(0)
    pool, (features, guidance) = awake(AttentionPool(7)), some_maps()
    pooled, weights = pool(features, guidance)
    order = torch.randperm(24)
    shuffled = [x.flatten(2)[..., order].reshape(x.shape) for x in (features, guidance)]
    again, moved = pool(*shuffled)
    assert_close_to_scale(again, pooled)
    assert_close_to_scale(moved.flatten(1), weights.flatten(1)[:, order])
    assert_close_to_scale(pool(features[1:2], guidance[1:2])[0], pooled[1:2])


def test_everything_learns_by_the_second_step() -> None:
    torch.manual_seed(0)
    pool, (features, guidance) = AttentionPool(7, width=8), some_maps()
    optimizer, target, moved = torch.optim.SGD(pool.parameters(), lr=0.5), torch.randn(3, 5), []
    for _ in range(2):
        optimizer.zero_grad()
        (pool(features, guidance)[0] * target).sum().backward()
        moved.append(
            {name for name, p in pool.named_parameters() if p.grad is not None and p.grad.any()}
        )
        optimizer.step()
    assert moved == [{"conv2.weight"}, {"conv1.weight", "conv1.bias", "conv2.weight"}]


def test_size_at_the_width_of_the_paper() -> None:
    assert sum(p.numel() for p in AttentionPool(2048).parameters()) == 2048 * 64 + 64 + 64


def test_bf16_stays_close_and_weights_still_sum_to_one() -> None:
    torch.manual_seed(0)
    pool, (features, guidance) = awake(AttentionPool(7)), some_maps()
    expected, _ = pool(features, guidance)
    with torch.autocast("cpu", torch.bfloat16):
        pooled, weights = pool(features.bfloat16(), guidance)
    assert_close_to_scale(weights.sum(dim=(1, 2)), torch.ones(3))
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.float(), expected, rtol=0.05, atol=0.05)


def test_guidance_of_other_places_is_one_line() -> None:
    features, guidance = some_maps()
    with pytest.raises(ValueError, match="has other places than the features"):
        AttentionPool(7)(features, guidance[..., :5])
