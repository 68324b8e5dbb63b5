"""The views of a video in a test, of evaluation and prediction: which clips, and crops of each.

Shapes: V views of one clip, C channels, T frames, K boxes per frame, S flow stacks of L flow
    frames, H W source pixels, h w pixels of a view.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from vidgraph.errors import RecipeError
from vidgraph.records import InputSpec, Positive, Regions, options
from vidgraph.video.base import Video
from vidgraph.video.crops import CropPlan, corner_windows, crop_windows, fitted_window
from vidgraph.video.flow_stacks import FlowReader, read_stacks, stack_indices
from vidgraph.video.sampling import PastEnd, Spread, sample_frames, span_frames
from vidgraph.video.transforms import FrameBoxes, move_pixels, move_regions

CropPlaces = Literal["line", "corners"]
Fusion = Literal["mean", "max", "logits", "max_logits"]
NUM_CORNERS = 5  # with the centre


@options
class ViewPlan:
    """How a video is shown to a model in a test: `num_views` clips times `crops` views, or twice as
    many with `mirrored`; and how their scores become one.

    The test of Temporal Segment Networks, 25 clips and ten crops of each, is `ViewPlan(25, 5,
    crop_places="corners", mirrored=True)`.

    Attributes:
        num_views: clips per video, spread over it, see `sample_frames`.
        crops: of each clip; 1 is the centre.
        crop_places: `line`: evenly along the frame's longer side; `corners`: the four corners and
            the centre, five in all.
        mirrored: every crop is also shown mirrored, after all that are not.
        full_frame: whole frames, their shape kept, in place of crops; for models that are fully
            convolutional.
        short_side: pixels of the frames' shorter side before cropping; None: as large as the crop
            fills.
        crop_size: side of square crops in pixels; None: the model's own height and width.
        stack_interval: frames from one flow stack to the next; None: the model's own.
        fusion: `mean` or `max` over views of probabilities, `logits` or `max_logits` of logits.
        batch_size: views per forward pass.
        past_end: what a clip longer than the video does, in training too: `clamp` repeats the last
            frame, `loop` starts again at the first, `refuse` stops.
        spread: how a model that looks at the whole video takes its frames, in training too: `parts`
            takes one of each equal part, any one in training; `linspace` takes evenly spaced
            frames from the first to the last.
        folder_fps: frames per second of a folder of images, which holds no times.
    """

    num_views: Positive = 1
    crops: Positive = 1
    crop_places: CropPlaces = "line"
    mirrored: bool = False
    full_frame: bool = False
    short_side: Positive | None = None
    crop_size: Positive | None = None
    stack_interval: Positive | None = None
    fusion: Fusion = "mean"
    batch_size: Positive = 64
    past_end: PastEnd = "clamp"
    spread: Spread = "parts"
    folder_fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 25.0

    def __post_init__(self) -> None:
        if self.full_frame and (self.crops > 1 or self.crop_size is not None):
            raise ValueError("full_frame shows whole frames; leave out crops and crop_size")
        if self.crop_places == "corners" and self.crops != NUM_CORNERS:
            raise ValueError(
                f"crop_places corners are the four corners and the centre; give crops "
                f"{NUM_CORNERS}, not {self.crops}"
            )
        if self.short_side and self.crop_size and self.crop_size > self.short_side:
            raise ValueError(
                f"crop_size {self.crop_size} does not fit into short_side {self.short_side}"
            )

    def single(self) -> ViewPlan:
        """One clip and its centre, at the size that is scored: for training and validation."""
        plain: Any = {"crops": 1, "crop_places": "line", "mirrored": False, "full_frame": False}
        return replace(self, num_views=1, crop_size=None, stack_interval=None, **plain)

    @property
    def views_per_clip(self) -> int:
        return (1 if self.full_frame else self.crops) * (2 if self.mirrored else 1)

    @property
    def middle(self) -> int:
        """The view of a clip in the middle: the centre crop, not mirrored."""
        return 0 if self.full_frame else self.crops // 2

    def crop_shape(self, spec: InputSpec) -> tuple[int, int]:
        """Rows and columns of a crop.

        Raises:
            RecipeError: it does not fit into frames of `short_side`.
        """
        size = (self.crop_size, self.crop_size) if self.crop_size else (spec.height, spec.width)
        if self.short_side is not None and self.short_side < min(size) and not self.full_frame:
            raise RecipeError(
                f"crops of {size[0]}x{size[1]} pixels do not fit into frames whose shorter side "
                f"is {self.short_side}"
            )
        return size

    def windows(self, spec: InputSpec, height: int, width: int) -> list[CropPlan]:
        """The windows of one clip in frames of `height` x `width`."""
        size = self.crop_shape(spec)
        if spec.fit != "crop":
            if self.crops > 1 or self.full_frame or self.short_side:
                raise RecipeError(
                    f"the model takes whole frames (fit {spec.fit}); leave out eval.crops, "
                    "full_frame and short_side"
                )
            windows = [fitted_window(height, width, size, spec.fit)]
        elif self.crop_places == "corners":
            windows = corner_windows(height, width, size, self.short_side)
        else:
            how = self.crops, self.short_side, self.full_frame
            windows = crop_windows(height, width, size, *how)
        return windows + [replace(window, flip=True) for window in windows if self.mirrored]


def read_views(
    video: Video,
    spec: InputSpec,
    plan: ViewPlan,
    clip: int,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    boxes_at: Callable[[np.ndarray], FrameBoxes] | None = None,
) -> tuple[Tensor, np.ndarray, Regions | None]:
    """Reads the views of one clip of the plan, from 0; its frames are decoded once.

    It lies between `start_seconds` and `end_seconds`, see `sample_frames`. `boxes_at` gives the
    boxes of source frames [T]; they are moved as the pixels of each view are.

    Returns:
        pixels, uint8 [V, C, T, h, w];
        the clip's source frames, int64 [T];
        the boxes in each view, [V, T, K, ...]; None without `boxes_at`.

    Raises:
        VideoError: a frame cannot be decoded.
        SpanError: the clip cannot be taken from the span.
    """
    indices = sample_frames(
        spec,
        video.timestamps_seconds,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        view=clip,
        num_views=plan.num_views,
        past_end=plan.past_end,
        spread=plan.spread,
    )
    frames = read_frames(video, spec, indices)
    height, width = frames.shape[1:3]
    windows = plan.windows(spec, height, width)
    pixels = torch.stack([move_pixels(frames, window, spec.channels) for window in windows])
    if boxes_at is None:
        return pixels, indices, None
    boxes = boxes_at(indices)
    views = [move_regions(frames, boxes, window, spec) for window in windows]
    return pixels, indices, Regions.joined(views)


def read_frames(video: Video, spec: InputSpec, indices: np.ndarray) -> np.ndarray:
    """The frames of a clip, uint8 [T, H, W, 3]; nothing is decoded for flow alone."""
    if not spec.channels:
        return np.empty((len(indices), video.height, video.width, 0), np.uint8)
    return video.read(indices)


def read_flow_views(
    reader: FlowReader,
    video: Video,
    spec: InputSpec,
    plan: ViewPlan,
    frame_indices: np.ndarray,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Tensor:
    """The flow stacks of the views that `read_views` reads, from the clip's source frames [T].

    Stacks stay between `start_seconds` and `end_seconds`.

    Returns:
        uint8 [V, T, S, 2 L, h, w], cut and mirrored as the pixels are.

    Raises:
        SpanError: the span holds no flow frame, or is refused as too short.
        VideoError: a frame that flow is computed from cannot be decoded.
        DataError: a stored flow frame cannot be read.
    """
    first, stop = span_frames(video.timestamps_seconds, start_seconds, end_seconds)
    last = min(stop - 1, reader.num_flow_frames)
    indices = stack_indices(
        spec, frame_indices, first, last, interval=plan.stack_interval, past_end=plan.past_end
    )
    windows = plan.windows(spec, video.height, video.width)
    return read_stacks(reader, indices, windows, video.height, video.width)
