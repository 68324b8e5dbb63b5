"""Small per-frame convolutional stems for 64 x 64 digits.

Shapes: B batch, C channels, T frames, H W pixels or map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_EVIDENCE_SCALE = 1 / 8  # what pre-training gives, in units of the features beside it


class FrameWise(nn.Module):
    """Runs a 2D network on every frame of a clip.

    Args:
        layers: image network, [B, C, H, W] to [B, C', H', W'].
        out_channels: channels of its map (C').
        map_size: rows and columns of its map, for the frame size that it is declared for.
    """

    def __init__(self, layers: nn.Module, out_channels: int, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.layers, self.out_channels, self.map_size = layers, out_channels, map_size

    def forward(self, video: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, C', T, H', W']."""
        batch, _, frames = video.shape[:3]
        images = video.transpose(1, 2).flatten(0, 1)  # [B * T, C, H, W]
        maps: Tensor = self.layers(images)  # [B * T, C', H', W']
        return maps.reshape(batch, frames, *maps.shape[1:]).transpose(1, 2)


class EvidenceStem(FrameWise):
    """An image network on every frame, whose map also says where in the frame there is evidence for
    classes of still images.

    Beside the network's features stand maps of evidence, one per class (Zhou et al., Learning Deep
    Features for Discriminative Localization, CVPR 2016): a linear layer at every cell, whose mean
    over the map classified the images that the stem was pre-trained on. They are the last channels,
    and rectified: where nothing speaks for a class its map is zero. The features say as much, but
    mixed; a map with one thing in it has that thing's place as its centre.

    Args:
        layers: image network, [B, C, H, W] to [B, C', H', W'].
        num_features: channels of its map (C').
        num_evidence: classes of still images (E); the stem's map has C' + E channels.
        map_size: rows and columns of its map, for the frame size that it is declared for.
    """

    def __init__(
        self, layers: nn.Module, num_features: int, num_evidence: int, map_size: tuple[int, int]
    ) -> None:
        super().__init__(layers, num_features + num_evidence, map_size)
        self.evidence = nn.Conv2d(num_features, num_evidence, 1, bias=False)

    def forward(self, video: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, C' + E, T, H', W']."""
        features = super().forward(video)
        places = (_EVIDENCE_SCALE * self.evidence_maps(features)).relu()
        return torch.cat([features, places], dim=1)

    def evidence_maps(self, features: Tensor) -> Tensor:
        """The network's features [B, C', T, H', W'] to evidence for and against each class, [B, E,
        T, H', W'].
        """
        maps: Tensor = nn.functional.conv3d(features, self.evidence.weight[:, :, None])
        return maps

    def logits(self, video: Tensor) -> Tensor:
        """[B, C, T, H, W] to the mean of the evidence over frames and map, [B, E]."""
        return self.evidence_maps(super().forward(video).mean(dim=(2, 3, 4), keepdim=True)).flatten(
            1
        )


def simple_c2d(width: int = 512, in_channels: int = 1, size: int = 64) -> FrameWise:
    """The stem of the RSTG authors: three times 3x3 convolution without padding, ReLU, 2x2
    max-pool; 64 x 64 pixels to 6 x 6.
    """
    layers: list[nn.Module] = []
    for depth in range(3):
        layers += [
            nn.Conv2d(in_channels if depth == 0 else width, width, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        size = (size - 2) // 2
    return FrameWise(nn.Sequential(*layers), width, (size, size))


def strided_stem(
    widths: Sequence[int] = (32, 64, 96, 96),
    num_evidence: int = 10,
    in_channels: int = 1,
    size: int = 64,
) -> EvidenceStem:
    """A stem that a CPU can train: three convolutions of stride 2 and one of stride 1, with batch
    norm and ReLU; 64 x 64 to 8 x 8.

    The last layer's cells see 33 pixels, a whole digit wherever it lies; without it they see 17.
    Then evidence for ten digits.
    """
    layers: list[nn.Module] = []
    for depth, width in enumerate(widths):
        kernel, stride = (5 if depth == 0 else 3), (2 if depth < 3 else 1)
        layers += [
            nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        in_channels, size = width, (size + stride - 1) // stride
    return EvidenceStem(nn.Sequential(*layers), in_channels, num_evidence, (size, size))
