"""Which frames of a video make a clip.

Shapes: N frames of the video, T frames of the clip.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from vidgraph.errors import DataError
from vidgraph.records import InputSpec

PastEnd = Literal["clamp", "loop", "refuse"]
Spread = Literal["parts", "linspace"]

# Containers round times, .mkv and .webm to whole milliseconds: a frame may come this late and still
# count as shown.
_ROUNDING_SECONDS = 1e-3
# Times written with a few decimals in a table must not lose their own frame.
_WRITTEN_SECONDS = 1e-6


class SpanError(DataError):
    """The span of a video from which a clip is to be taken is empty or lies outside the video."""


def sample_frames(
    spec: InputSpec,
    timestamps_seconds: np.ndarray,
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    rng: np.random.Generator | None = None,
    view: int = 0,
    num_views: int = 1,
    past_end: PastEnd = "clamp",
    spread: Spread = "parts",
) -> np.ndarray:
    """Chooses the frames of one clip.

    With `stride_frames` or `sample_fps` the clip is a run of frames. In training it starts anywhere
    that keeps it inside the span; in test `num_views` clips are spread evenly from the first to the
    last possible start, a single one lies in the middle. A clip that is longer than its span starts
    at the span's first frame; with `past_end` "loop" it starts anywhere in training, and in test at
    the points that cut the span into `num_views` equal parts (as video-nonlocal-net does).

    With `whole_video` the whole span is looked at. `spread` "parts" cuts it into T equal parts,
    each of which gives one frame (Temporal Segment Networks, Wang et al. 2016): any in training; in
    test its centre, and with several views the points that cut each part into `num_views` equal
    pieces at their centres. `spread` "linspace" takes T frames evenly from the first to the last,
    in training too; view v of V is moved by v / V of their distance (as the RSTG authors' second
    clip is, by half of it).

    `sample_fps` goes by timestamps: at each wanted time the frame is taken that is on the screen
    then, whatever the rate.

    Args:
        spec: number of frames and the spacing.
        timestamps_seconds: when each frame is shown, increasing, [N].
        start_seconds: take frames shown at or after this time only; None: from the first.
        end_seconds: take frames shown before this time only; None: to the last. May lie after the
            end of the video.
        rng: draws the clip in training; None chooses the clip of a test.
        view: which of the views, from 0; test only.
        num_views: clips per video; some are equal where there are fewer frames.
        past_end: what a clip longer than its span does: repeat the span's last frame, start again
            at its first, or raise. Clips of the whole video show frames twice where there are
            too few, unless it says "refuse".
        spread: where the frames of the whole video lie.

    Returns:
        Frame indices, int64 [T].

    Raises:
        SpanError: the span is empty or holds no frame, or is refused as too short.
        ValueError: `view` is not below `num_views`.
    """
    if not 0 <= view < num_views:
        raise ValueError(f"view must be from 0 to num_views - 1; got view {view} of {num_views}")
    times = np.asarray(timestamps_seconds, dtype=np.float64)
    first, stop = span_frames(times, start_seconds, end_seconds)
    length = stop - first
    if past_end == "refuse":
        _refuse_short(spec, times[first:stop])
    if spec.whole_video:
        place = _segment_offsets if spread == "parts" else _linspace_offsets
        return first + place(spec.num_frames, length, rng, view, num_views)
    if spec.stride_frames is not None:
        slack = length - 1 - (spec.num_frames - 1) * spec.stride_frames
        begin = _begin(
            slack, rng, view, num_views, whole=True, loop_length=length if past_end == "loop" else 0
        )
        offsets = int(begin) + spec.stride_frames * np.arange(spec.num_frames)
        return first + (offsets % length if past_end == "loop" else np.minimum(offsets, length - 1))
    assert spec.sample_fps is not None
    return first + _offsets_by_time(
        times[first:stop] - times[first],
        spec.num_frames,
        spec.sample_fps,
        rng,
        view,
        num_views,
        past_end,
    )


def _refuse_short(spec: InputSpec, times: np.ndarray) -> None:
    """Raises SpanError if a clip needs more frames, or longer, than the span has."""
    if spec.whole_video or spec.stride_frames is not None:
        stride = 1 if spec.whole_video else spec.stride_frames or 1
        count = (spec.num_frames - 1) * stride + 1
        short, words = count > len(times), f"{_frames(count)}, and the video has {len(times)}"
    else:
        assert spec.sample_fps is not None
        need, has = (spec.num_frames - 1) / spec.sample_fps, float(times[-1] - times[0])
        short, words = (
            need > has + _ROUNDING_SECONDS,
            f"frames from 0 to {need:.3g} s, and the video's last is at {has:.3g} s",
        )
    if short:
        raise SpanError(
            f"a clip needs {words}; let it repeat frames (past_end clamp or loop), or put the "
            "video on the skip list"
        )


def _frames(count: int) -> str:
    return f"{count} frame{'s' * (count != 1)}"


def span_frames(
    times: np.ndarray, start_seconds: float | None = None, end_seconds: float | None = None
) -> tuple[int, int]:
    """The frames shown from `start_seconds` to `end_seconds`: first, and one past the last.

    Raises:
        SpanError: there are none.
    """
    if len(times) == 0:
        raise SpanError("the video has no frames to sample from")
    start = float(times[0]) if start_seconds is None else float(start_seconds)
    end = float("inf") if end_seconds is None else float(end_seconds)
    if not start < end:
        raise SpanError(
            f"the span from {start:g} s to {end:g} s is empty; the end must come after the start"
        )
    first, stop = np.searchsorted(
        times, [start - _WRITTEN_SECONDS, end - _WRITTEN_SECONDS]
    ).tolist()
    if first == stop and first > 0 and start < times[-1] + _frame_seconds(times):
        first -= 1  # a span between two frames: the one on the screen
    if first >= stop:
        raise SpanError(
            f"the span from {start:g} s to {end:g} s lies outside the video, whose last frame is "
            f"shown at {times[-1]:.6g} s"
        )
    return int(first), int(stop)


def _begin(
    slack: float,
    rng: np.random.Generator | None,
    view: int,
    num_views: int,
    *,
    whole: bool,
    loop_length: float = 0,
) -> float:
    """Where a clip starts that leaves `slack` free, or anywhere in the loop."""
    if slack <= 0 and loop_length <= 0:
        return 0.0
    looped = slack <= 0
    if rng is not None:
        stop = loop_length if looped else slack + 1 if whole else slack
        return float(rng.integers(0, int(stop))) if whole else float(rng.uniform(0.0, stop))
    if looped:
        place = loop_length * view / num_views
        return float(int(place)) if whole else place
    place = slack * (0.5 if num_views == 1 else view / (num_views - 1))
    return float(round(place)) if whole else place


def _segment_offsets(
    num_segments: int, length: int, rng: np.random.Generator | None, view: int, num_views: int
) -> np.ndarray:
    edges = np.arange(num_segments + 1) * (length / num_segments)
    place = rng.random(num_segments) if rng is not None else (view + 0.5) / num_views
    offsets = np.floor(edges[:-1] + place * np.diff(edges)).astype(np.int64)  # [T]
    return np.minimum(offsets, length - 1)


def _linspace_offsets(
    num_frames: int, length: int, rng: np.random.Generator | None, view: int, num_views: int
) -> np.ndarray:
    """Nothing is drawn: training sees the frames that a test with one view sees."""
    shift = 0 if rng is not None else round(view / num_views * length / num_frames)
    return np.minimum(np.linspace(0, length - 1, num_frames).astype(np.int64) + shift, length - 1)


def _offsets_by_time(
    times: np.ndarray,
    num_frames: int,
    fps: float,
    rng: np.random.Generator | None,
    view: int,
    num_views: int,
    past_end: PastEnd,
) -> np.ndarray:
    """Frames on the screen at `num_frames` times that are 1 / fps apart; `times` starts at 0."""
    duration = float(times[-1]) + (_frame_seconds(times) or 1.0 / fps)
    slack = float(times[-1]) - (num_frames - 1) / fps
    begin = _begin(
        slack, rng, view, num_views, whole=False, loop_length=duration if past_end == "loop" else 0
    )
    wanted = begin + np.arange(num_frames) / fps  # [T]
    if past_end == "loop":
        wanted = np.where(wanted > duration - _ROUNDING_SECONDS, np.mod(wanted, duration), wanted)
    offsets = np.searchsorted(times, wanted + _ROUNDING_SECONDS, side="right") - 1
    return np.clip(offsets, 0, len(times) - 1).astype(np.int64)


def _frame_seconds(times: np.ndarray) -> float:
    """How long a frame is shown on average; 0 for a single frame."""
    return float(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
