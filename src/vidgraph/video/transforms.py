"""Pixels, boxes and optical flow of a clip moved together by one `CropPlan`.

Cutting first and resizing after gives the crop that resizing the whole frame and cutting it would
give, to the source pixel, and costs less.

Shapes: C channels, T frames, K boxes per frame, n flow frames, H W source pixels, h w pixels of the
    crop.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidgraph.records import InputSpec, Regions
from vidgraph.video.crops import CropPlan, box_windows

# ITU-R BT.601 luma; integers in 1/65536 that sum to 65536, so a grey pixel keeps its value exactly.
_LUMA_WEIGHTS = (19595, 38470, 7471)
_MIN_BOX_PIXELS = 1.0  # a box with less than this left inside the crop is masked out


class FrameBoxes(NamedTuple):
    """Boxes of some frames of one video, before any crop, as a store gives them.

    Attributes:
        boxes_xyxy: fractions of the frame, float32 [T, K, 4].
        scores: float32 [T, K].
        mask: True where a box exists, bool [T, K].
        classes: number of its class, int64 [T, K]; -1 where masked or not known.
        tracks: number of the thing in this video that it shows, int64 [T, K]; -1 likewise.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    mask: np.ndarray
    classes: np.ndarray
    tracks: np.ndarray

    @classmethod
    def none(cls, num_frames: int, count: int) -> FrameBoxes:
        """All masked."""
        shape = num_frames, count
        boxes, scores = np.zeros((*shape, 4), np.float32), np.zeros(shape, np.float32)
        classes, tracks = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        return cls(boxes, scores, np.zeros(shape, bool), classes, tracks)


def move_pixels(frames: np.ndarray, plan: CropPlan, channels: int = 3) -> Tensor:
    """Frames, uint8 [T, H, W, 3], to a clip, uint8 [C, T, h, w], in RGB or luma."""
    window = plan.cut(frames)  # [T, rows, columns, 3]
    window = to_luma(window) if channels == 1 else window
    pixels = _resize(np.moveaxis(window, 3, 0), plan.size)  # [C, T, h, w]
    if plan.brightness:
        pixels = (pixels.to(torch.int16) + plan.brightness).clamp(0, 255).to(torch.uint8)
    return (pixels.flip(3) if plan.flip else pixels).contiguous()


def move_flow(flow: np.ndarray, plan: CropPlan, height: int, width: int) -> Tensor:
    """Flow frames, moved as the pixels of frames of `height` x `width` are.

    Values are shares of a bound that follows the frame's size, so resizing leaves them as they are.
    Mirroring turns x around: 255 - x, which is exact, since no motion is 127.5.

    Args:
        flow: x and y, uint8 [n, H, W, 2]; of the frames' size or another.

    Returns:
        x and y, uint8 [n, 2, h, w].
    """
    window = plan.rescaled(height, width, flow.shape[1], flow.shape[2])
    moved = _resize(np.moveaxis(window.cut(flow), 3, 0), plan.size)  # [2, n, h, w]
    if plan.flip:
        moved = moved.flip(3).clone()
        moved[0] = 255 - moved[0]
    return moved.transpose(0, 1).contiguous()  # [n, 2, h, w]


def move_boxes(boxes: FrameBoxes, plan: CropPlan, height: int, width: int) -> Regions:
    """Boxes, moved as the pixels of frames of `height` x `width` are.

    Returns:
        Boxes as fractions of the crop, cut off at its border, as a batch of one view: [1, T, K, 4].
        Boxes of which less than a pixel is left, and those that were masked before, are masked,
        their numbers zero.
    """
    rows, columns = plan.size
    source = torch.as_tensor(boxes.boxes_xyxy * np.array([width, height] * 2, np.float32))
    x = (source[..., 0::2] - plan.left) * (columns / plan.width)  # [T, K, 2]
    y = (source[..., 1::2] - plan.top) * (rows / plan.height)  # [T, K, 2]
    x = columns - x.flip(-1) if plan.flip else x
    x, y = x.clamp(0, columns), y.clamp(0, rows)
    wide, high = x[..., 1] - x[..., 0], y[..., 1] - y[..., 0]  # [T, K]
    left = (wide >= _MIN_BOX_PIXELS) & (high >= _MIN_BOX_PIXELS)
    mask = left & torch.as_tensor(boxes.mask)
    moved = torch.stack([x, y], dim=-1).flatten(-2)  # [T, K, 4]
    unit = moved * mask[..., None] / torch.tensor([columns, rows, columns, rows])
    return Regions(unit[None], (torch.as_tensor(boxes.scores) * mask)[None], mask[None])


def move_regions(frames: np.ndarray, boxes: FrameBoxes, plan: CropPlan, spec: InputSpec) -> Regions:
    """Boxes moved as the pixels of frames [T, H, W, 3] are; see `move_boxes`. For models that take
    `box_crops`, also a crop of each thing, mirrored and lit like the clip."""
    height, width = frames.shape[1:3]
    regions = move_boxes(boxes, plan, height, width)
    if spec.box_crops:
        size = spec.height, spec.width
        windows = box_windows(boxes.boxes_xyxy, boxes.mask, height, width, size)
        like: dict[str, Any] = {"flip": plan.flip, "brightness": plan.brightness}
        crops = [move_pixels(frames, replace(w, **like), spec.channels) for w in windows]
        regions.crops = torch.stack(crops)[None]  # [1, K, C, T, h, w]
    return regions


def to_luma(frames: np.ndarray) -> np.ndarray:
    """BT.601 luma, uint8 [..., 3] -> uint8 [..., 1]; a grey pixel keeps its value."""
    red, green, blue = np.moveaxis(frames, -1, 0)
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return frames[..., :1]
    luma: np.ndarray = (frames.astype(np.uint32) @ np.array(_LUMA_WEIGHTS, np.uint32) + 32768) >> 16
    return luma.astype(np.uint8)[..., None]


def _resize(pixels: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialiasing, uint8 [C, T, rows, columns] -> uint8 [C, T, h, w]."""
    if not pixels.size:  # a model of flow alone
        return torch.empty((*pixels.shape[:2], *size), dtype=torch.uint8)
    if pixels.shape[2:] == size:
        return torch.from_numpy(np.ascontiguousarray(pixels))
    # Channels last in memory, for which a fast uint8 path exists.
    frames = torch.from_numpy(np.ascontiguousarray(pixels.transpose(1, 2, 3, 0)))
    frames = frames.permute(0, 3, 1, 2)  # [T, C, rows, columns]
    return interpolate(frames, size=size, mode="bilinear", antialias=True).transpose(0, 1)
