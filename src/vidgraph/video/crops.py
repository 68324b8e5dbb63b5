"""Which window of a video's frames a clip shows: views of a test, random crops of training.

Shapes: H W source pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vidgraph.errors import RecipeError
from vidgraph.records import Fit, InputSpec

_MIN_SCALE = 0.8  # smallest side of a training window, as a share of the largest that fits
_MARGIN = 1.25  # of a thing's own crop, as a multiple of its box
_GREY = np.uint8(127)  # beside frames: near the mean of every normalisation, and no motion


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

    def cut(self, frames: np.ndarray) -> np.ndarray:
        """The window of frames [..., H, W, C]; grey where it reaches beyond them."""
        height, width = frames.shape[-3:-1]
        top, left = max(0, self.top), max(0, self.left)
        bottom, right = min(height, self.top + self.height), min(width, self.left + self.width)
        inside: np.ndarray = frames[..., top:bottom, left:right, :]
        if inside.shape[-3:-1] == (self.height, self.width):
            return inside
        window = np.full((*frames.shape[:-3], self.height, self.width, frames.shape[-1]), _GREY)
        window[..., top - self.top : bottom - self.top, left - self.left : right - self.left, :] = (
            inside
        )
        return window

    def rescaled(self, height: int, width: int, own_height: int, own_width: int) -> CropPlan:
        """The same window, to the nearest pixel, in frames that are stored at another size."""
        if (height, width) == (own_height, own_width):
            return self
        down, right = own_height / height, own_width / width
        top, bottom = round(self.top * down), round((self.top + self.height) * down)
        left, end = round(self.left * right), round((self.left + self.width) * right)
        top, left = min(top, own_height - 1), min(left, own_width - 1)
        rows, columns = max(1, bottom - top), max(1, end - left)
        return replace(self, top=top, left=left, height=rows, width=columns)


def crop_windows(
    height: int,
    width: int,
    size: tuple[int, int],
    num_crops: int = 1,
    short_side: int | None = None,
    full_frame: bool = False,
) -> list[CropPlan]:
    """The windows of a test, evenly along the frame's longer side, centred on the other.

    One is in the centre, several reach from border to border; `full_frame` is the whole frame as
    one window, its shape kept. `short_side`: pixels that the frame's shorter side is resized to
    before the cut; None: as large as the crop fills.
    """
    scale = fills = min(height / size[0], width / size[1])  # source pixels per pixel of the crop
    if short_side is not None:
        scale = min(height, width) / short_side
    if full_frame:
        whole = (max(1, round(height / scale)), max(1, round(width / scale)))
        return [CropPlan(0, 0, height, width, False, whole)]
    rows = _scaled(size[0], min(scale, fills), height)
    columns = _scaled(size[1], min(scale, fills), width)
    centre = CropPlan((height - rows) // 2, (width - columns) // 2, rows, columns, False, size)
    if num_crops == 1:
        return [centre]
    places, last = range(num_crops), num_crops - 1
    if width >= height:
        return [replace(centre, left=(width - columns) * k // last) for k in places]
    return [replace(centre, top=(height - rows) * k // last) for k in places]


def fitted_window(height: int, width: int, size: tuple[int, int], fit: Fit) -> CropPlan:
    """The window that shows all of a frame; see `InputSpec.fit`.

    Args:
        height: rows of the frame.
        width: columns of the frame.
        size: rows and columns of the clip.
        fit: how the frame's shape becomes that of the clip.
    """
    if fit == "short":
        return crop_windows(height, width, size, full_frame=True)[0]
    if fit == "squash":
        return CropPlan(0, 0, height, width, False, size)
    scale = max(height / size[0], width / size[1])  # source pixels per pixel of the clip
    rows, columns = max(height, round(size[0] * scale)), max(width, round(size[1] * scale))
    return CropPlan((height - rows) // 2, (width - columns) // 2, rows, columns, False, size)


def box_windows(
    boxes_xyxy: np.ndarray, mask: np.ndarray, height: int, width: int, size: tuple[int, int]
) -> list[CropPlan]:
    """Where each of K things is looked at closely, through all of a clip: the median over time of
    its boxes, a quarter wider, and as much more as the shape of the crop needs. The window stands
    still, so that what moves in it is the thing and not the window. Of a thing without a single box
    it is the whole frame.

    Args:
        boxes_xyxy: fractions of the frame, [T, K, 4].
        mask: True where there is one, [T, K].
        height: rows of the frame.
        width: columns of the frame.
        size: rows and columns of the crop.
    """
    windows = []
    for boxes, there in zip(boxes_xyxy.swapaxes(0, 1), mask.T, strict=True):
        if not there.any():
            windows.append(fitted_window(height, width, size, "pad"))
            continue
        x0, y0, x1, y1 = np.median(boxes[there], axis=0) * (width, height, width, height)
        scale = _MARGIN * max((y1 - y0) / size[0], (x1 - x0) / size[1])  # pixels per crop pixel
        rows, columns = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        top, left = round((y0 + y1 - rows) / 2), round((x0 + x1 - columns) / 2)
        windows.append(CropPlan(top, left, rows, columns, False, size))
    return windows


def corner_windows(
    height: int, width: int, size: tuple[int, int], short_side: int | None = None
) -> list[CropPlan]:
    """Five windows: top left, top right, centre, bottom left, bottom right; see `crop_windows`."""
    (centre,) = crop_windows(height, width, size, 1, short_side)
    below, beside = height - centre.height, width - centre.width
    corners = [replace(centre, top=top, left=left) for top in (0, below) for left in (0, beside)]
    return [*corners[:2], centre, *corners[2:]]


def corner_points(height: int, width: int, rows: int, columns: int) -> list[tuple[int, int]]:
    """Top and left of the thirteen windows of Temporal Segment Networks, on a 5 x 5 grid."""
    down, right = (height - rows) // 4, (width - columns) // 4
    return [(i * down, j * right) for i in range(5) for j in range(5) if i % 2 == j % 2]


@dataclass(frozen=True)
class CropDraws:
    """The windows of clips: the centre in tests; in training random ones.

    In tests the window is the largest that fits, so that the frame's shorter side fills the model's
    input. In training its sides are 80 to 100 % of that, or it is cut from the frame after the
    frame's shorter side has been resized to `short_side`, or its sides are of `crop_scales`.
    Without the last two, a video that has the model's size already is used whole, in training too:
    store videos a little larger than the model's input if training is to vary position and scale.

    Attributes:
        spec: height and width of the result.
        train: random windows.
        flip: in training, mirror every second clip. Leave it off where left and right tell classes
            apart.
        short_side: least and greatest pixels of the frames' shorter side before a random cut.
        brightness: in training, change all frames of a clip by one amount, up to this share of the
            range up or down.
        crop_scales: windows of Temporal Segment Networks: rows and columns are each one of these
            shares of the largest that fits, neighbours in this list at most, at one of thirteen
            points, see `corner_points`.

    Raises:
        RecipeError: `short_side` is smaller than the model's input.
    """

    spec: InputSpec
    train: bool
    flip: bool = False
    short_side: tuple[int, int] | None = None
    brightness: float = 0.0
    crop_scales: Sequence[float] = ()

    def __post_init__(self) -> None:
        height, width = self.spec.height, self.spec.width
        if self.short_side is not None and self.short_side[0] < min(height, width):
            raise RecipeError(
                f"short_side {self.short_side[0]} is smaller than the model's input of "
                f"{height}x{width} pixels"
            )

    def plan(self, height: int, width: int, rng: np.random.Generator | None = None) -> CropPlan:
        """The window of a clip in frames of `height` x `width`."""
        size = self.spec.height, self.spec.width
        fit = self.spec.fit
        whole = None if fit == "crop" else fitted_window(height, width, size, fit)
        if not self.train:
            return whole or crop_windows(height, width, size)[0]
        assert rng is not None, "training draws its windows"
        flip = self.flip and bool(rng.random() < 0.5)
        if whole is not None:
            return replace(whole, flip=flip)
        fills = min(height / size[0], width / size[1])  # source pixels per crop pixel
        if self.crop_scales:
            top, left, rows, columns = self._corner(height, width, fills, rng)
        elif (height, width) == size and self.short_side is None:
            top, left, rows, columns = 0, 0, height, width
        else:
            if self.short_side is None:
                scale = fills * rng.uniform(_MIN_SCALE, 1.0)
            else:
                side = int(rng.integers(self.short_side[0], self.short_side[1] + 1))
                scale = min(fills, min(height, width) / side)
            rows, columns = _scaled(size[0], scale, height), _scaled(size[1], scale, width)
            top = int(rng.integers(0, height - rows + 1))
            left = int(rng.integers(0, width - columns + 1))
        change = self.brightness and round(255 * rng.uniform(-self.brightness, self.brightness))
        return CropPlan(top, left, rows, columns, flip, size, int(change))

    def _corner(
        self, height: int, width: int, fills: float, rng: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Multi-scale corner cropping (Wang et al. 2016; `GroupMultiScaleCrop` of their code)."""
        scales = list(enumerate(self.crop_scales))
        pairs = [(a, b) for i, a in scales for j, b in scales if abs(i - j) <= 1]
        by_row, by_column = pairs[int(rng.integers(len(pairs)))]
        # The authors cut fractions of pixels off: 0.66 of 256 is 168. What rounding errors take
        # from a whole number is given back.
        rows = max(1, int(self.spec.height * fills * by_row + 1e-6))
        columns = max(1, int(self.spec.width * fills * by_column + 1e-6))
        points = corner_points(height, width, rows, columns)
        return *points[int(rng.integers(len(points)))], rows, columns


def _scaled(side: int, scale: float, most: int) -> int:
    """Source pixels under `side` pixels of a crop."""
    return min(most, max(1, round(side * scale)))
