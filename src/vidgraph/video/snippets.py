"""Snippets of optical flow around the frames of a clip: which fields, read once each, cropped as
the frames are.

Field i is the motion from frame i to frame i + 1, so that a video of N frames has N - 1 of them.

Shapes: T frames of the clip, S snippets per frame, L fields per snippet, n different fields, V
    views, H W pixels of a field, h w pixels
of a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgraph.records import InputSpec
from vidgraph.video.sampling import PastEnd, SpanError
from vidgraph.video.transforms import ClipTransform, CropPlan


class FieldReader(Protocol):
    """The flow fields of one video, stored or computed on the way.

    Attributes:
        num_fields: one less than the frames of the video.
        height: rows of a field.
        width: columns of a field.
    """

    @property
    def num_fields(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Fields by index, in the order asked: x and y, 0 to 255 for minus to plus the bound, uint8
        [n, H, W, 2].

        Raises:
            DataError: there is no such field, or it is damaged.
            VideoError: it is computed on the way, and a frame cannot be decoded.
        """
        ...


def snippet_fields(
    spec: InputSpec,
    frame_indices: NDArray[np.int64],
    first: int,
    stop: int,
    *,
    interval: int | None = None,
    past_end: PastEnd = "clamp",
) -> NDArray[np.int64]:
    """The fields of the snippets around each frame of a clip.

    Of S snippets around frame t, snippet k starts at t + (k - (S - 1) / 2) d, rounded down. d is
    tau in the layout `interval`, so that snippets overlap where tau is less than L, and L + tau in
    the layout `gap`. A start is moved to the nearest one whose L fields exist; where there are
    fewer than L fields, the last one is repeated, as Temporal Segment Networks do.

    Source: Spatiotemporal Pyramid Network (Wang et al. 2017), the authors' slides: "optical flow
        snippets at an interval of tau around t".

    Args:
        spec: L, S, tau and the layout.
        frame_indices: the clip's frames, [T].
        first: first field that may be used.
        stop: one past the last.
        interval: tau, in place of the spec's.
        past_end: "refuse" raises where snippets would have to be moved onto each other or to repeat
            fields.

    Returns:
        Field indices, int64 [T, S, L].

    Raises:
        SpanError: there is no field, or the snippets are refused as too long.
    """
    length, count, available = spec.flow_length, spec.num_stacks, stop - first
    if available < 1:
        raise SpanError(
            "optical flow needs two frames, and there is one; put the video on the skip list, or "
            "lengthen the span"
        )
    step = (interval or spec.stack_interval) + (length if spec.stack_layout == "gap" else 0)
    extent = length + (count - 1) * step
    if past_end == "refuse" and available < extent:
        what = (
            f"{count} snippet{'s' * (count > 1)} of {length} flow fields take {extent + 1} frames"
        )
        raise SpanError(
            f"{what}, and there are {available + 1}; let them repeat fields (past_end clamp), or "
            "put the video on the skip list"
        )
    offsets = (2 * np.arange(count) - (count - 1)) * step // 2  # [S]
    starts = frame_indices[:, None] + offsets  # [T, S]
    starts = np.clip(starts, first, max(first, stop - length))
    return np.minimum(starts[..., None] + np.arange(length), stop - 1)  # [T, S, L]


def draw_interval(spec: InputSpec, rng: np.random.Generator) -> int:
    """tau of a training clip, any from 1 to the spec's greatest: "to model variable lengths of
    videos with a fixed number of neurons".
    """
    return int(rng.integers(1, spec.max_stack_interval + 1))


def read_snippets(
    reader: FieldReader,
    fields: NDArray[np.int64],
    transform: ClipTransform,
    windows: Sequence[CropPlan],
    height: int,
    width: int,
) -> Tensor:
    """Reads snippets and cuts every view of them. A field that stands in several snippets is read
    and resized once.

    Args:
        reader: of the video.
        fields: field indices, [T, S, L].
        transform: of the clip.
        windows: of the views, V of them, as the clip's frames are cut.
        height: rows of these frames.
        width: columns of these frames.

    Returns:
        x and y of the first field, of the second, and so on, uint8 [V, T, S, 2 L, h, w].
    """
    wanted, places = np.unique(fields, return_inverse=True)  # [n]
    pixels = reader.read(wanted)  # [n, H, W, 2]
    order = torch.from_numpy(places.reshape(-1))
    views = [
        transform.flow(pixels, window, height, width)[order] for window in windows
    ]  # each [T S L, 2, h, w]
    num_frames, count, length = fields.shape
    return torch.stack(views).reshape(
        len(windows), num_frames, count, 2 * length, *views[0].shape[2:]
    )
