"""Flow stacks around the frames of a clip: read once each, cropped as the clip's frames are.

Flow frame i is the motion from frame i to frame i + 1, so a video of N frames has N - 1 of them.

Shapes: T frames of the clip, S stacks per frame, L flow frames per stack, n different flow frames,
    V views, H W pixels of a flow frame, h w pixels of a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgraph.records import InputSpec
from vidgraph.video.crops import CropPlan
from vidgraph.video.sampling import PastEnd, SpanError
from vidgraph.video.transforms import move_flow


class FlowReader(Protocol):
    """The flow frames of one video, stored or computed when read."""

    num_flow_frames: int

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Flow frames in the order asked: x and y, 0 to 255 for -bound to +bound, [n, H, W, 2].

        Raises:
            DataError: there is no such flow frame, or it is damaged.
            VideoError: it is computed now, and a frame cannot be decoded.
        """


def stack_indices(
    spec: InputSpec,
    frame_indices: NDArray[np.int64],
    first: int,
    stop: int,
    *,
    interval: int | None = None,
    past_end: PastEnd = "clamp",
) -> NDArray[np.int64]:
    """The flow frames of the stacks around each frame of a clip.

    Of S stacks around frame t, stack k starts at t + (k - (S - 1) / 2) d, rounded down. d is
    tau in the layout `interval`, so that stacks overlap where tau is less than L, and L + tau in
    the layout `gap`. A start is moved to the nearest one whose L flow frames exist; where
    there are fewer than L, the last one is repeated, as Temporal Segment Networks do.

    Source: Spatiotemporal Pyramid Network (Wang et al. 2017), the authors' slides: "optical flow
        snippets at an interval of tau around t".

    Flow frames from `first` to before `stop` may be used. `interval` takes the place of the spec's
    tau. `past_end` "refuse" raises where stacks would have to be moved onto each other or to repeat
    flow frames.

    Returns:
        Indices of flow frames, int64 [T, S, L].

    Raises:
        SpanError: there is no flow frame, or the stacks are refused as too long.
    """
    length, count, available = spec.flow_length, spec.num_stacks, stop - first
    if available < 1:
        advice = "put the video on the skip list, or lengthen the span"
        raise SpanError(f"optical flow needs two frames, and there is one; {advice}")
    step = (interval or spec.stack_interval) + (length if spec.stack_layout == "gap" else 0)
    extent = length + (count - 1) * step
    if past_end == "refuse" and available < extent:
        problem = f"{count} flow stacks of {length} flow frames take {extent + 1} frames"
        advice = "let them repeat (past_end clamp), or put the video on the skip list"
        raise SpanError(f"{problem}, and there are {available + 1}; {advice}")
    offsets = (2 * np.arange(count) - (count - 1)) * step // 2  # [S]
    starts = frame_indices[:, None] + offsets  # [T, S]
    starts = np.clip(starts, first, max(first, stop - length))
    return np.minimum(starts[..., None] + np.arange(length), stop - 1)  # [T, S, L]


def draw_interval(spec: InputSpec, rng: np.random.Generator) -> int:
    """tau of a training clip, any from 1 to the spec's greatest."""
    return int(rng.integers(1, spec.max_stack_interval + 1))


def read_stacks(
    reader: FlowReader,
    indices: NDArray[np.int64],
    windows: Sequence[CropPlan],
    height: int,
    width: int,
) -> Tensor:
    """Reads flow stacks and cuts every view of them; a flow frame of several stacks is read once.

    Args:
        reader: of the video.
        indices: of flow frames, [T, S, L].
        windows: of the views, made for frames of `height` x `width`.
        height: rows of these frames.
        width: columns of these frames.

    Returns:
        x and y of the first flow frame, of the second, and so on, uint8 [V, T, S, 2 L, h, w].
    """
    wanted, inverse = np.unique(indices, return_inverse=True)  # [n]
    pixels, order = reader.read(wanted), torch.from_numpy(inverse.reshape(-1))
    views = [move_flow(pixels, window, height, width)[order] for window in windows]
    stacked = torch.stack(views)  # [V, T S L, 2, h, w]
    return stacked.unflatten(1, indices.shape).flatten(3, 4)  # [V, T, S, 2 L, h, w]
