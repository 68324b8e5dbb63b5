"""Means of feature maps.

Shapes: B batch, C channels, T frames, H W map, P windows.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def window_means(features: Tensor, window: tuple[int, int] | None) -> Tensor:
    """Mean over all frames and each window of the map: what a model trained on small frames pools
    from larger ones.

    Args:
        features: feature map, [B, C, T, H, W].
        window: rows and columns; windows stand one cell apart and a smaller map is one window. None
            for the whole map.

    Returns:
        One vector per window, [B, P, C].
    """
    height, width = features.shape[-2:]
    size = (height, width) if window is None else (min(window[0], height), min(window[1], width))
    return F.avg_pool2d(features.mean(dim=2), size, stride=1).flatten(2).transpose(1, 2)
