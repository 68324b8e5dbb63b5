"""The views of a video in a test: which clips, and which crops of each. Evaluation and prediction both take them from here.

Shapes: N frames of the video, V views of one clip, C channels, T frames, K boxes per frame, h w pixels of a view.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidgraph.errors import RecipeError
from vidgraph.records import InputSpec, Regions
from vidgraph.video.base import Video
from vidgraph.video.sampling import PastEnd, Spread, sample_frames
from vidgraph.video.transforms import ClipTransform, CropPlan, FrameBoxes, crop_windows


@dataclass(frozen=True)
class ViewPlan:
    """How a video is shown to a model in a test: `clips` times `crops` views.

    Attributes:
        clips: spread over the video, see `sample_frames`.
        crops: of each clip, evenly along the frame's longer side; 1 is the centre.
        full_frame: whole frames, their shape kept, in place of crops; for models that are fully convolutional.
        short_side: pixels of the frames' shorter side before cropping; None: as large as the crop fills.
        crop_size: side of square crops in pixels; None: the model's own height and width.
        past_end: what a clip longer than the video does.
        spread: where the frames of a model that looks at the whole video lie.
        folder_fps: frames per second of a folder of images, which holds no times.
    """

    clips: int = 1
    crops: int = 1
    full_frame: bool = False
    short_side: int | None = None
    crop_size: int | None = None
    past_end: PastEnd = "clamp"
    spread: Spread = "parts"
    folder_fps: float = 25.0

    def __post_init__(self) -> None:
        if min(self.clips, self.crops) < 1:
            raise ValueError(f"clips and crops must be at least 1; got {self.clips} and {self.crops}")

    @property
    def views_per_clip(self) -> int:
        return 1 if self.full_frame else self.crops

    def crop_shape(self, spec: InputSpec) -> tuple[int, int]:
        """Rows and columns of a crop.

        Raises:
            RecipeError: it does not fit into frames of `short_side`.
        """
        size = (spec.height, spec.width) if self.crop_size is None else (self.crop_size, self.crop_size)
        if self.short_side is not None and self.short_side < min(size) and not self.full_frame:
            raise RecipeError(f"crops of {size[0]}x{size[1]} pixels do not fit into frames whose shorter side is {self.short_side}")
        return size

    def windows(self, spec: InputSpec, height: int, width: int) -> list[CropPlan]:
        """The windows of one clip in frames of `height` x `width`."""
        return crop_windows(height, width, self.crop_shape(spec), self.crops, self.short_side, self.full_frame)


def read_views(
    video: Video,
    spec: InputSpec,
    plan: ViewPlan,
    clip: int,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    boxes_at: Callable[[np.ndarray], FrameBoxes] | None = None,
) -> tuple[Tensor, np.ndarray, Regions | None]:
    """Reads the views of one clip; its frames are decoded once.

    Args:
        video: open.
        spec: what the model eats.
        plan: which views.
        clip: which of the plan's clips, from 0.
        start_seconds: take frames shown at or after this time only.
        end_seconds: take frames shown before this time only.
        boxes_at: gives the boxes of source frames [T]; they are moved as the pixels of each view are.

    Returns:
        pixels, uint8 [V, C, T, h, w];
        the clip's source frames, int64 [T];
        the boxes in each view, [V, T, K, ...]; None without `boxes_at`.

    Raises:
        VideoError: a frame cannot be decoded.
        SpanError: the clip cannot be taken from the span, see `sample_frames`.
    """
    indices = sample_frames(
        spec,
        video.timestamps_seconds,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        view=clip,
        num_views=plan.clips,
        past_end=plan.past_end,
        spread=plan.spread,
    )
    frames, transform = video.read(indices), ClipTransform(spec, train=False)
    height, width = frames.shape[1:3]
    windows = plan.windows(spec, height, width)
    pixels = torch.stack([transform.apply(frames, window)[0] for window in windows])
    if boxes_at is None:
        return pixels, indices, None
    boxes = boxes_at(indices)
    views = [transform.regions(boxes, window, height, width) for window in windows]
    return pixels, indices, Regions(*(torch.cat([getattr(view, name) for view in views]) for name in ("boxes_xyxy", "scores", "mask")))
