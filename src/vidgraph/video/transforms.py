"""Pixels, boxes and optical flow of a clip moved together: resize, crop, flip, brightness, luma.

Shapes: C channels, T frames, K boxes per frame, n flow fields, H W source pixels, h w pixels of the
    crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidgraph.errors import RecipeError
from vidgraph.records import InputSpec, Regions

# ITU-R BT.601 luma; integers in 1/65536 that sum to 65536, so that a grey pixel keeps its value
# exactly.
_LUMA_WEIGHTS = (19595, 38470, 7471)
# Rows and columns of a corner crop are so many places apart in the list of scales at most, as in
# Temporal Segment Networks.
_MAX_DISTORT = 1


class FrameBoxes(NamedTuple):
    """Boxes of some frames of one video, before any crop, as a store gives them.

    Attributes:
        boxes_xyxy: fractions of the frame, float32 [T, K, 4].
        scores: float32 [T, K].
        mask: True where a box exists, bool [T, K].
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class CropPlan:
    """Where a clip is cut and how large it becomes. One plan moves pixels, boxes and flow alike.

    Attributes:
        top: first row that is kept, in source pixels.
        left: first column that is kept, in source pixels.
        height: rows that are kept, in source pixels.
        width: columns that are kept, in source pixels.
        flip: mirror left and right after the cut.
        size: rows and columns that the cut becomes.
        brightness: added to every pixel, -255 to 255.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool
    size: tuple[int, int]
    brightness: int = 0


class ClipTransform:
    """Cuts a window with the shape of a model's input from every frame of a clip, resizes it, and
    moves the boxes along.

    Cutting first and resizing after gives the crop that resizing the whole frame and cutting it
    would give, to the source pixel, and costs less. In test the window is the largest that fits, in
    the centre: the frame's shorter side fills the model's input. In training its size is a random
    fraction of that and its place is random; or, with `short_side`, its size is that of a cut from
    the frame after its shorter side has been resized to so many pixels.

    Without `short_side`, a video that has the model's size already is used whole, in training too:
    its pixels stay byte-equal, apart from a mirroring and a change of brightness. Store videos a
    little larger than the model's input if training is to vary place and scale.
    """

    def __init__(
        self,
        spec: InputSpec,
        train: bool,
        flip: bool = False,
        min_scale: float = 0.8,
        min_box_pixels: float = 1.0,
        short_side: tuple[int, int] | None = None,
        brightness: float = 0.0,
        crop_scales: Sequence[float] = (),
    ) -> None:
        """Fixes the sizes.

        Args:
            spec: height, width and channels of the result.
            train: random windows; otherwise the centre.
            flip: in training, mirror every second clip. Leave it off where left and right tell
                classes apart.
            min_scale: smallest side of a training window, as a fraction of the largest that fits; 1
                for no scale jitter.
            min_box_pixels: a box with less than this in width or height left inside the crop is
                masked out.
            short_side: least and greatest pixels of the frames' shorter side before a random cut,
                in place of `min_scale`.
            brightness: in training, change all frames of a clip by one amount, up to this share of
                the range up or down.
            crop_scales: windows of Temporal Segment Networks in place of `min_scale`: rows and
                columns are each one of these shares of the largest that fits, neighbours in this
                list at most, and they lie at one of thirteen points, see `corner_points`.

        Raises:
            ValueError: `min_scale` or one of `crop_scales` is not above 0 and at most 1, or
                `crop_scales` stand beside `short_side`.
            RecipeError: `short_side` is smaller than the model's input.
        """
        if not all(0 < scale <= 1 for scale in (min_scale, *crop_scales)):
            raise ValueError(
                f"min_scale and crop_scales must be above 0 and at most 1; got {min_scale} and "
                f"{list(crop_scales)}"
            )
        if crop_scales and short_side is not None:
            raise ValueError(
                "training windows are drawn by short_side or by crop_scales, not by both"
            )
        if short_side is not None and short_side[0] < min(spec.height, spec.width):
            raise RecipeError(
                f"short_side {short_side[0]} is smaller than the model's input of "
                f"{spec.height}x{spec.width} pixels"
            )
        self.spec, self.train, self.flip = spec, train, flip
        self.min_scale, self.min_box_pixels = min_scale, min_box_pixels
        self.short_side, self.brightness, self.crop_scales = (
            short_side,
            brightness,
            tuple(crop_scales),
        )

    def __call__(
        self,
        frames: np.ndarray,
        boxes_xyxy: np.ndarray | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Transforms one clip; every frame by the same plan.

        Args:
            frames: uint8 [T, H, W, 3] in RGB.
            boxes_xyxy: source pixels, [T, K, 4]; the box of pixel columns 2 to 4 has x from 2 to 5.
                A box without area is none.
            rng: draws the window in training; equal states give equal results.

        Returns:
            pixels, uint8 [C, T, h, w];
            boxes in pixels of the crop, cut off at its border, float32 [T, K, 4], zero where
            masked; None without boxes; True where a box is left, bool [T, K]; None without boxes.

        Raises:
            ValueError: frames of another shape or dtype, or training without `rng`.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise ValueError(
                f"frames must be uint8 [T, H, W, 3]; got {frames.dtype} {list(frames.shape)}"
            )
        return self.apply(frames, self.plan(frames.shape[1], frames.shape[2], rng), boxes_xyxy)

    def apply(
        self, frames: np.ndarray, plan: CropPlan, boxes_xyxy: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Moves one clip by a plan; takes and gives what a call does."""
        pixels = self._move_pixels(frames, plan)
        if boxes_xyxy is None:
            return pixels, None, None
        return pixels, *self._move_boxes(torch.as_tensor(boxes_xyxy, dtype=torch.float32), plan)

    def regions(self, boxes: FrameBoxes, plan: CropPlan, height: int, width: int) -> Regions:
        """Moves the boxes of one clip as `apply` moves its pixels.

        Args:
            boxes: of the clip's frames.
            plan: the clip's.
            height: rows of the frames before the cut.
            width: columns of the frames before the cut.

        Returns:
            Boxes as fractions of the crop, cut off at its border, as a batch of one view: [1, T, K,
            4]. Boxes of which less than `min_box_pixels` is left, and those that were masked
            before, are masked, their numbers zero.
        """
        pixels = torch.as_tensor(
            boxes.boxes_xyxy * np.array([width, height, width, height], np.float32)
        )
        moved, left = self._move_boxes(pixels, plan)
        mask = left & torch.as_tensor(boxes.mask)
        scores = torch.as_tensor(boxes.scores) * mask
        rows, columns = plan.size
        unit = moved * mask[..., None] / torch.tensor([columns, rows, columns, rows])
        return Regions(unit[None], scores[None], mask[None])

    def plan(self, height: int, width: int, rng: np.random.Generator | None) -> CropPlan:
        """Chooses the window in a frame of `height` x `width`."""
        size = (self.spec.height, self.spec.width)
        flip = self._draw_flip(rng)
        if not self.train or rng is None:
            (window,) = crop_windows(height, width, size)
            return window
        if self.crop_scales:
            return self._corner_plan(height, width, flip, rng)
        if (height, width) == size and self.short_side is None:
            return CropPlan(0, 0, height, width, flip, size, self._draw_brightness(rng))
        scale = min(height / size[0], width / size[1])  # source pixels per pixel of the crop
        if self.short_side is None:
            scale *= rng.uniform(self.min_scale, 1.0)
        else:
            scale = min(
                scale,
                min(height, width) / int(rng.integers(self.short_side[0], self.short_side[1] + 1)),
            )
        rows, columns = _scaled(size[0], scale, height), _scaled(size[1], scale, width)
        top, left = (
            int(rng.integers(0, height - rows + 1)),
            int(rng.integers(0, width - columns + 1)),
        )
        return CropPlan(top, left, rows, columns, flip, size, self._draw_brightness(rng))

    def _corner_plan(
        self, height: int, width: int, flip: bool, rng: np.random.Generator
    ) -> CropPlan:
        """Multi-scale corner cropping of Temporal Segment Networks (Wang et al. 2016;
        `GroupMultiScaleCrop` of their code).
        """
        size, scales = (self.spec.height, self.spec.width), self.crop_scales
        largest = min(height / size[0], width / size[1])  # source pixels per pixel of the crop
        pairs = [
            (a, b)
            for i, a in enumerate(scales)
            for j, b in enumerate(scales)
            if abs(i - j) <= _MAX_DISTORT
        ]
        by_row, by_column = pairs[int(rng.integers(len(pairs)))]
        # The authors cut fractions of pixels off: 0.66 of 256 is 168. What rounding errors take
        # from a whole number is given back.
        rows, columns = (
            max(1, int(side * largest * share + 1e-6))
            for side, share in zip(size, (by_row, by_column), strict=True)
        )
        points = corner_points(height, width, rows, columns)
        top, left = points[int(rng.integers(len(points)))]
        return CropPlan(top, left, rows, columns, flip, size, self._draw_brightness(rng))

    def _draw_flip(self, rng: np.random.Generator | None) -> bool:
        if self.train and rng is None:
            raise ValueError("training transforms need a random generator")
        return self.train and self.flip and rng is not None and bool(rng.random() < 0.5)

    def _draw_brightness(self, rng: np.random.Generator) -> int:
        return round(255 * rng.uniform(-self.brightness, self.brightness)) if self.brightness else 0

    def flow(self, fields: np.ndarray, plan: CropPlan, height: int, width: int) -> Tensor:
        """Moves flow fields as `apply` moves the clip's pixels.

        Values are shares of a bound that follows the frame's size, so that resizing leaves them as
        they are. Mirroring a field turns its x around: 255 - x, which is exact, since no motion is
        127.5. Brightness does nothing.

        Args:
            fields: x and y, uint8 [n, H, W, 2]; they may be of another size than the frames.
            plan: the clip's.
            height: rows of the frames that the plan was made for.
            width: columns of these frames.

        Returns:
            x and y, uint8 [n, 2, h, w].
        """
        window = _window_in(plan, height, width, fields.shape[1], fields.shape[2])
        cut = fields[
            :, window.top : window.top + window.height, window.left : window.left + window.width
        ]  # [n, rows, columns, 2]
        moved = torch.from_numpy(np.ascontiguousarray(cut)).permute(
            3, 0, 1, 2
        )  # [2, n, rows, columns]
        if (window.height, window.width) != plan.size:
            moved = _resize(moved, plan.size)
        if plan.flip:
            moved = moved.flip(3).clone()
            moved[0] = 255 - moved[0]
        return moved.transpose(0, 1).contiguous()  # [n, 2, h, w]

    def _move_pixels(self, frames: np.ndarray, plan: CropPlan) -> Tensor:
        window = frames[
            :, plan.top : plan.top + plan.height, plan.left : plan.left + plan.width
        ]  # [T, rows, columns, 3]
        if self.spec.channels == 1:
            window = to_luma(window)
        pixels = torch.from_numpy(np.ascontiguousarray(window)).permute(
            3, 0, 1, 2
        )  # [C, T, rows, columns]
        if (plan.height, plan.width) != plan.size:
            pixels = _resize(pixels, plan.size)
        if plan.brightness:
            pixels = (pixels.to(torch.int16) + plan.brightness).clamp(0, 255).to(torch.uint8)
        return (pixels.flip(3) if plan.flip else pixels).contiguous()  # [C, T, h, w]

    def _move_boxes(self, boxes_xyxy: Tensor, plan: CropPlan) -> tuple[Tensor, Tensor]:
        """Boxes in pixels of the crop, [T, K, 4], and which of them are left, [T, K]."""
        (height, width) = plan.size
        scale_x, scale_y = width / plan.width, height / plan.height
        x = (boxes_xyxy[..., 0::2] - plan.left) * scale_x  # [T, K, 2]
        y = (boxes_xyxy[..., 1::2] - plan.top) * scale_y  # [T, K, 2]
        if plan.flip:
            x = width - x.flip(-1)
        x, y = x.clamp(0, width), y.clamp(0, height)
        mask = (x[..., 1] - x[..., 0] >= self.min_box_pixels) & (
            y[..., 1] - y[..., 0] >= self.min_box_pixels
        )  # [T, K]
        moved = torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)  # [T, K, 4]
        return torch.where(mask[..., None], moved, torch.zeros_like(moved)), mask


def crop_windows(
    height: int,
    width: int,
    size: tuple[int, int],
    num_crops: int = 1,
    short_side: int | None = None,
    full_frame: bool = False,
) -> list[CropPlan]:
    """The windows of a test in a frame of `height` x `width`, evenly along its longer side and in
    the middle of the other.

    Args:
        height: rows of the frame.
        width: columns of the frame.
        size: rows and columns of a crop.
        num_crops: how many windows; one is in the centre, several reach from border to border.
        short_side: pixels that the frame's shorter side is resized to before the cut; None: as
            large as the crop fills.
        full_frame: the whole frame as one window, its shape kept, in place of crops.
    """
    scale = fills = min(height / size[0], width / size[1])  # source pixels per pixel of the crop
    if short_side is not None:
        scale = min(height, width) / short_side
    if full_frame:
        return [
            CropPlan(
                0,
                0,
                height,
                width,
                False,
                (max(1, round(height / scale)), max(1, round(width / scale))),
            )
        ]
    rows, columns = (
        _scaled(side, min(scale, fills), most)
        for side, most in zip(size, (height, width), strict=True)
    )
    windows = []
    for k in range(num_crops):
        step, steps = (k, num_crops - 1) if num_crops > 1 else (1, 2)
        top, left = (height - rows) // 2, (width - columns) // 2
        if width >= height:
            left = (width - columns) * step // steps
        else:
            top = (height - rows) * step // steps
        windows.append(CropPlan(top, left, rows, columns, False, size))
    return windows


def corner_windows(
    height: int, width: int, size: tuple[int, int], short_side: int | None = None
) -> list[CropPlan]:
    """Five windows of a frame: top left, top right, centre, bottom left, bottom right; arguments as
    for `crop_windows`.
    """
    (centre,) = crop_windows(height, width, size, 1, short_side)
    below, beside = height - centre.height, width - centre.width
    corners = [replace(centre, top=top, left=left) for top in (0, below) for left in (0, beside)]
    return [*corners[:2], centre, *corners[2:]]


def corner_points(height: int, width: int, rows: int, columns: int) -> list[tuple[int, int]]:
    """Top and left of the thirteen windows of `rows` x `columns` of Temporal Segment Networks.

    In fourths of the way from border to border: the four corners, the centre, the middles of the
    four edges, the centres of the four quarters.
    """
    step_down, step_right = (height - rows) // 4, (width - columns) // 4
    fourths = [
        (down, right)
        for down in range(5)
        for right in range(5)
        if (down % 2, right % 2) in ((0, 0), (1, 1))
    ]
    return [(down * step_down, right * step_right) for down, right in fourths]


def _window_in(
    plan: CropPlan, height: int, width: int, own_height: int, own_width: int
) -> CropPlan:
    """The window of a plan for frames of `height` x `width` in pictures of another size, to the
    nearest of their pixels.
    """
    if (height, width) == (own_height, own_width):
        return plan
    top, bottom = (round(edge * own_height / height) for edge in (plan.top, plan.top + plan.height))
    left, right = (round(edge * own_width / width) for edge in (plan.left, plan.left + plan.width))
    top, left = min(top, own_height - 1), min(left, own_width - 1)
    return replace(
        plan, top=top, left=left, height=max(1, bottom - top), width=max(1, right - left)
    )


def _scaled(side: int, scale: float, most: int) -> int:
    """Source pixels under `side` pixels of a crop."""
    return min(most, max(1, round(side * scale)))


def to_luma(frames: np.ndarray) -> np.ndarray:
    """BT.601 luma of RGB pixels, uint8 [..., 3] -> uint8 [..., 1]; where R = G = B the value is
    that value.
    """
    if np.array_equal(frames[..., 0], frames[..., 1]) and np.array_equal(
        frames[..., 0], frames[..., 2]
    ):
        return frames[..., :1]
    red, green, blue = (
        weight * frames[..., channel].astype(np.uint32)
        for channel, weight in enumerate(_LUMA_WEIGHTS)
    )
    return ((red + green + blue + 32768) >> 16).astype(np.uint8)[..., None]


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialiasing, uint8 [C, T, rows, columns] -> uint8 [C, T, h, w]."""
    channels, num_frames = pixels.shape[:2]
    if math.prod(pixels.shape) == 0:
        return pixels.new_empty((channels, num_frames, *size))
    frames = pixels.transpose(
        0, 1
    )  # [T, C, rows, columns]; its memory is channels last, for which a fast uint8 path exists
    return interpolate(frames, size=size, mode="bilinear", antialias=True).transpose(
        0, 1
    )  # [C, T, h, w]
