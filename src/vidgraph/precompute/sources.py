"""What every source of boxes offers, and what it shares with the methods of optical flow.

Shapes: n boxes of one frame, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

NMS_IOU = (
    0.7  # of two boxes of one frame that overlap more, the one of lower score goes; as in the RPN
)

Boxes = NDArray[np.float32]


class FrameUser(Protocol):
    """Looks at frames and their neighbours.

    Attributes:
        offsets: which neighbours of a frame it looks at too, counted in source frames.
    """

    offsets: tuple[int, ...]

    def prepare(self, pixels: NDArray[np.uint8]) -> Any:
        """What is kept of a frame, [H, W, 3] in RGB."""
        ...


class BoxSource(FrameUser, Protocol):
    """Proposes boxes frame by frame."""

    def propose(self, frame: Any, neighbours: Sequence[Any]) -> tuple[Boxes, Boxes]:
        """Boxes as fractions of the frame [n, 4] and scores in [0, 1], highest first, [n].

        Args:
            frame: as `prepare` gave it.
            neighbours: one per entry of `offsets`; None where the video has no such frame.
        """
        ...


def suppress(boxes_xyxy: Boxes, scores: Boxes) -> NDArray[np.int64]:
    """Which boxes stay, highest score first, when of two that overlap by more than `NMS_IOU` only
    the higher stays.
    """
    kept: NDArray[np.int64] = nms(
        torch.from_numpy(boxes_xyxy), torch.from_numpy(scores), NMS_IOU
    ).numpy()
    return kept


def reduced(pixels: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """A frame whose shorter side has at most so many pixels, [H, W, 3]."""
    height, width = reduced_size(pixels.shape[0], pixels.shape[1], short_side)
    if (height, width) == pixels.shape[:2]:
        return pixels
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def reduced_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Rows and columns of a `reduced` frame."""
    scale = short_side / min(height, width)
    return (
        (height, width)
        if scale >= 1
        else (max(1, round(height * scale)), max(1, round(width * scale)))
    )
