"""Which frames of a video make a clip.

Shapes: N frames of the video, T frames of the clip.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from vidgraph.errors import DataError
from vidgraph.records import InputSpec

PastEnd = Literal["clamp", "loop", "refuse"]
Spread = Literal["parts", "linspace"]

# Containers round times, .mkv and .webm to whole milliseconds: a frame that comes so late is shown.
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
    `sample_fps` goes by timestamps: it takes the frame that is on the screen at each wanted time.

    With `whole_video` the whole span is looked at. `spread` "parts" cuts it into T equal parts,
    each of which gives one frame (Temporal Segment Networks, Wang et al. 2016): any in training; in
    test its centre, and with several views the points that cut each part into `num_views` equal
    pieces at their centres. `spread` "linspace" takes T frames evenly from the first to the last,
    in training too; view v of V is moved by v / V of their distance (as the RSTG authors' second
    clip is, by half of it).

    Args:
        spec: number of frames and the spacing.
        timestamps_seconds: when each frame is shown, increasing, [N].
        start_seconds: take frames shown at or after this time only; None: from the first.
        end_seconds: take frames shown before this time only; None: to the last.
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
    times, length, loops = times[first:stop] - times[first], stop - first, past_end == "loop"
    steps = np.arange(spec.num_frames)
    if past_end == "refuse":
        _refuse_short(spec, times)
    if spec.whole_video:
        return first + _over_all(spec.num_frames, length, rng, view, num_views, spread)
    if spec.stride_frames is not None:
        slack = length - 1 - (spec.num_frames - 1) * spec.stride_frames
        begin = _begin(slack, length if loops else 0, rng, view, num_views, whole=True)
        offsets = int(begin) + spec.stride_frames * steps
        return first + (offsets % length if loops else np.minimum(offsets, length - 1))
    assert spec.sample_fps is not None
    duration = float(times[-1]) + (_frame_seconds(times) or 1.0 / spec.sample_fps)
    slack_seconds = float(times[-1]) - (spec.num_frames - 1) / spec.sample_fps
    begin = _begin(slack_seconds, duration if loops else 0, rng, view, num_views, whole=False)
    wanted = begin + steps / spec.sample_fps  # [T]
    if loops:
        wanted = np.where(wanted > duration - _ROUNDING_SECONDS, np.mod(wanted, duration), wanted)
    offsets = np.searchsorted(times, wanted + _ROUNDING_SECONDS, side="right") - 1
    return first + np.clip(offsets, 0, length - 1)


def _refuse_short(spec: InputSpec, times: np.ndarray) -> None:
    """Raises SpanError if a clip needs more frames, or longer, than the span has."""
    if stride := 1 if spec.whole_video else spec.stride_frames:
        count = (spec.num_frames - 1) * stride + 1
        short, words = count > len(times), f"{count} frames, and the video has {len(times)}"
    else:
        assert spec.sample_fps is not None
        need, has = (spec.num_frames - 1) / spec.sample_fps, float(times[-1])
        short = need > has + _ROUNDING_SECONDS
        words = f"frames from 0 to {need:.3g} s, and the video's last is at {has:.3g} s"
    if short:
        advice = "let it repeat frames (past_end clamp or loop), or put the video on the skip list"
        raise SpanError(f"a clip needs {words}; {advice}")


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
    span = f"the span from {start:g} s to {end:g} s"
    if not start < end:
        raise SpanError(f"{span} is empty; the end must come after the start")
    first, stop = np.searchsorted(times, np.array([start, end]) - _WRITTEN_SECONDS).tolist()
    if first == stop and first > 0 and start < times[-1] + _frame_seconds(times):
        first -= 1  # a span between two frames: the one on the screen
    if first >= stop:
        last = f"whose last frame is shown at {times[-1]:.6g} s"
        raise SpanError(f"{span} lies outside the video, {last}")
    return int(first), int(stop)


def _begin(
    slack: float,
    loop: float,
    rng: np.random.Generator | None,
    view: int,
    num_views: int,
    *,
    whole: bool,
) -> float:
    """Where a clip starts that leaves `slack` free, or else anywhere in the loop; in frames
    (`whole`) or seconds."""
    if slack <= 0 and loop <= 0:
        return 0.0
    if rng is not None:
        room = loop if slack <= 0 else slack + whole
        return float(rng.integers(0, int(room)) if whole else rng.uniform(0.0, room))
    if slack <= 0:
        place = loop * view / num_views
        return math.floor(place) if whole else place
    place = slack * (0.5 if num_views == 1 else view / (num_views - 1))
    return round(place) if whole else place


def _over_all(
    count: int,
    length: int,
    rng: np.random.Generator | None,
    view: int,
    num_views: int,
    spread: Spread,
) -> np.ndarray:
    """Frames spread over all; "linspace" draws nothing: training sees what a test's view 0 sees."""
    if spread == "linspace":
        shift = 0 if rng is not None else round(view / num_views * length / count)
        offsets = np.linspace(0, length - 1, count).astype(np.int64) + shift
    else:
        edges = np.arange(count + 1) * (length / count)
        place = rng.random(count) if rng is not None else (view + 0.5) / num_views
        offsets = np.floor(edges[:-1] + place * np.diff(edges)).astype(np.int64)  # [T]
    return np.minimum(offsets, length - 1)


def _frame_seconds(times: np.ndarray) -> float:
    """How long a frame is shown on average; 0 for a single frame."""
    return float(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0
