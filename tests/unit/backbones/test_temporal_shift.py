"""Temporal shift: against a slow loop, in the branch and not in the shortcut, nothing on a still
clip, and only neighbours on a moving one.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.backbones.image import FrameByFrame, TimmOptions, image_backbone
from vidgraph.backbones.temporal_shift import TemporalShift, shifted
from vidgraph.errors import RecipeError
from vidgraph.models.build import create_model


def shifted_by_hand(maps: Tensor, frames: int, share: float) -> Tensor:
    """Channel by channel and frame by frame."""
    result, count = maps.clone(), int(maps.shape[1] * share)
    for i in range(len(maps)):
        first, last = i % frames == 0, i % frames == frames - 1
        for c in range(count):
            result[i, c] = maps[i if last else i + 1, c]
            result[i, count + c] = maps[i if first else i - 1, count + c]
    return result


@pytest.mark.parametrize(
    ("clips", "frames", "channels", "share"),
    [(2, 4, 8, 0.125), (1, 5, 8, 0.25), (3, 2, 10, 0.125), (2, 3, 4, 0.5), (4, 1, 8, 0.25)],
)
def test_a_shift_is_that_of_a_plain_loop(
    clips: int, frames: int, channels: int, share: float
) -> None:
    maps = torch.randn(clips * frames, channels, 2, 3)
    assert torch.equal(shifted(maps, frames, share), shifted_by_hand(maps, frames, share))


# Of each kind of block, with how many branches are shifted.
NETWORKS = {
    "resnet10t": 4,
    "resnet26": 8,
    "mobilenetv3_small_050": 7,
    "tf_efficientnet_lite0": 9,
}


def pair(name: str, share: float = 0.125) -> tuple[FrameByFrame, FrameByFrame]:
    """A network with and without the shift, of the same random weights and statistics."""
    torch.manual_seed(0)
    plain = image_backbone(TimmOptions(name, weights=None), 3, (64, 64))
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):  # those that begin as zeros would close a branch
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    moving = image_backbone(TimmOptions(name, weights=None, temporal_shift=share), 3, (64, 64))
    moving.load_state_dict(plain.state_dict())  # under the same names
    return plain.eval(), moving.eval()


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_still_clip_gives_what_the_image_network_gives(name: str) -> None:
    """And a moving one does not."""
    plain, moving = pair(name)
    hooked = [m for m in moving.modules() if m._forward_pre_hooks]
    assert len(hooked) == NETWORKS[name]
    still = torch.randn(2, 3, 1, 64, 64).expand(-1, -1, 4, -1, -1)
    clip = torch.randn(2, 3, 4, 64, 64)
    assert torch.equal(moving(still), plain(still))
    assert torch.equal(moving(clip[:, :, :1]), plain(clip[:, :, :1]))
    maps, expected = moving(clip), plain(clip)
    for t in range(4):
        change = (maps[:, :, t] - expected[:, :, t]).norm() / expected[:, :, t].norm()
        assert change > 1e-4  # rounding is below 1e-6
    images = clip.transpose(1, 2).flatten(0, 1)
    assert torch.equal(moving.network(images), plain.network(images))  # images have no neighbours


@torch.no_grad()
def test_each_block_sees_one_frame_further_within_its_clip() -> None:
    _, moving = pair("resnet10t")
    clip = torch.randn(2, 3, 12, 64, 64)
    other = clip.clone()
    other[0, :, 0] += 1
    change = (moving(other) - moving(clip)).abs().amax((1, 3, 4))
    assert (change[0] > 0).tolist() == [True] * 5 + [False] * 7  # four blocks
    assert not change[1].any()
    assert_close_to_scale(torch.cat([moving(clip[:1]), moving(clip[1:])]), moving(clip))


def convolved(layer: Any, maps: Tensor) -> Tensor:
    """By a convolution without its hook."""
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.conv2d(maps, layer.weight, layer.bias, *how)


@torch.no_grad()
def test_the_branch_is_shifted_and_the_shortcut_is_not() -> None:
    _, moving = pair("resnet10t", 0.25)
    block: Any = moving.network.timm.layer2[0]
    maps = torch.randn(6, 64, 8, 8)
    with moving.shift.over(3):
        found = block(maps)
    inside = block.act1(block.bn1(convolved(block.conv1, shifted_by_hand(maps, 3, 0.25))))
    branch = block.bn2(block.conv2(inside))
    assert_close_to_scale(found, (branch + block.downsample(maps)).relu())

    _, moving = pair("mobilenetv3_small_050", 0.25)
    hooked = [m for m in moving.modules() if hasattr(m, "conv_pw") and m.conv_pw._forward_pre_hooks]
    block = hooked[0]
    maps = torch.randn(6, block.conv_pw.in_channels, 8, 8)
    with moving.shift.over(3):
        found = block(maps)
    inside = block.bn1(convolved(block.conv_pw, shifted_by_hand(maps, 3, 0.25)))
    inside = block.se(block.bn2(block.conv_dw(inside)))
    assert_close_to_scale(found, block.bn3(block.conv_pwl(inside)) + maps)


def test_a_copy_has_a_shift_of_its_own() -> None:
    """Profiles and averages copy models."""
    _, moving = pair("resnet10t")
    other, clip = copy.deepcopy(moving), torch.randn(1, 3, 3, 64, 64)
    assert torch.equal(other(clip), moving(clip))
    hooks = [
        hook
        for backbone in (moving, other)
        for module in backbone.modules()
        for hook in module._forward_pre_hooks.values()
    ]
    assert {id(hook) for hook in hooks} == {id(moving.shift), id(other.shift)}
    assert all(isinstance(hook, TemporalShift) and hook.frames == 1 for hook in hooks)


def test_the_shift_learns() -> None:
    """A gradient comes from the maps of one frame to the pixels of its neighbours."""
    _, moving = pair("resnet10t")
    clip = torch.randn(1, 3, 12, 64, 64, requires_grad=True)
    moving(clip)[:, :, 6].square().sum().backward()
    assert clip.grad is not None
    reached = clip.grad.abs().amax((0, 1, 3, 4)) > 0
    assert reached.tolist() == [2 <= t <= 10 for t in range(12)]


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "vgg11"])
def test_networks_without_known_blocks_are_refused(name: str) -> None:
    how = {"type": "timm", "name": name, "weights": None, "temporal_shift": 0.125}
    with pytest.raises(RecipeError, match=rf"temporal_shift: {name} has no residual blocks") as e:
        create_model("pooled", 3, backbone=how, input={"height": 64, "width": 64})
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("share", [-0.1, 0.6])
def test_a_share_is_of_half_of_the_channels_at_most(share: float) -> None:
    how = {"type": "timm", "name": "resnet10t", "temporal_shift": share}
    with pytest.raises(RecipeError, match=r"backbone.temporal_shift: should be"):
        create_model("pooled", 3, backbone=how)
