"""Temporal shift: an image network that sees its neighbouring frames, at no cost (TSM, ICCV 2019).

Shapes: B batch, T frames, C channels, h w map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vidgraph.errors import RecipeError


def shifted(maps: Tensor, frames: int, share: float) -> Tensor:
    """A share of the channels taken from the next frame, and as many from the one before.

    The paper has zeros where a clip ends; here the last frame keeps its own, and so does the first,
    so that a still clip stays as it is.

    Args:
        maps: of all frames of all clips, [B * T, C, h, w].
        frames: of a clip (T).
        share: of the channels, in each direction.

    Returns:
        [B * T, C, h, w].
    """
    channels = maps.shape[1]
    count = int(channels * share)
    clips = maps.unflatten(0, (-1, frames))  # [B, T, C, h, w]
    ahead, behind, own = clips.split([count, count, channels - 2 * count], dim=2)
    ahead = torch.cat([ahead[:, 1:], ahead[:, -1:]], dim=1)
    behind = torch.cat([behind[:, :1], behind[:, :-1]], dim=1)
    return torch.cat([ahead, behind, own], dim=2).flatten(0, 1)


class TemporalShift:
    """Shifts what the first convolution of each residual branch is given, beside the shortcut.

    It is a hook on these convolutions, so that no tensor of the network is renamed.

    Args:
        share: of the channels, in each direction.
        network: of timm.
        name: of the network, for messages.

    Attributes:
        frames: of the clips that pass now; 1 for images, which have no neighbours.

    Raises:
        RecipeError: the network has no block with a shortcut of a known kind.
    """

    def __init__(self, share: float, network: nn.Module, name: str) -> None:
        from timm.models._efficientnet_blocks import InvertedResidual
        from timm.models.resnet import BasicBlock, Bottleneck

        self.share, self.frames = share, 1
        branches = [
            block.conv_pw if isinstance(block, InvertedResidual) else block.conv1
            for block in network.modules()
            if isinstance(block, BasicBlock | Bottleneck)
            or (isinstance(block, InvertedResidual) and block.has_skip)
        ]
        if not branches:
            raise RecipeError(
                f"backbone.temporal_shift: {name} has no residual blocks of ResNet or EfficientNet "
                "to shift in; leave it at 0, or take another network"
            )
        for convolution in branches:
            convolution.register_forward_pre_hook(self)

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        maps, *others = inputs
        return shifted(maps, self.frames, self.share), *others

    @contextmanager
    def over(self, frames: int) -> Iterator[None]:
        """While clips of so many frames pass."""
        self.frames = frames
        try:
            yield
        finally:
            self.frames = 1
