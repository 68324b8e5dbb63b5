"""`sample_frames`: indices worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vidgraph.errors import VidgraphError
from vidgraph.records import InputSpec
from vidgraph.video.sampling import sample_frames


def spec(num_frames: int, **spacing: float) -> InputSpec:
    return InputSpec(num_frames, height=8, width=8, **spacing)  # type: ignore[arg-type]


TIMES = np.arange(100) / 25


def test_stride_takes_the_middle_in_test_and_spreads_views() -> None:
    four = spec(4, stride_frames=2)  # spans 7 frames: starts 0 to 93
    assert sample_frames(four, TIMES).tolist() == [46, 48, 50, 52]
    views = [sample_frames(four, TIMES, view=view, num_views=4)[0] for view in range(4)]
    assert views == [0, 31, 62, 93]


def test_stride_in_training_reaches_every_start_and_no_other() -> None:
    rng = np.random.default_rng(0)
    four = spec(4, stride_frames=3)
    clips = np.stack([sample_frames(four, TIMES[:12], rng=rng) for _ in range(200)])
    assert np.array_equal(np.diff(clips, axis=1), np.full((200, 3), 3))
    assert sorted(set(clips[:, 0].tolist())) == [0, 1, 2]


def test_a_clip_longer_than_the_video() -> None:
    long = spec(6, stride_frames=2)
    assert sample_frames(long, TIMES[:5]).tolist() == [0, 2, 4, 4, 4, 4]
    assert sample_frames(long, TIMES[:5], past_end="loop").tolist() == [0, 2, 4, 1, 3, 0]
    assert sample_frames(spec(6, sample_fps=25), TIMES[:4]).tolist() == [0, 1, 2, 3, 3, 3]
    looped = sample_frames(spec(6, sample_fps=25), TIMES[:4], past_end="loop")
    assert looped.tolist() == [0, 1, 2, 3, 0, 1]
    assert sample_frames(spec(3, sample_fps=25), TIMES[:1], past_end="loop").tolist() == [0, 0, 0]
    drawn = sample_frames(spec(3, stride_frames=4), TIMES[:1], rng=np.random.default_rng(0))
    assert drawn.tolist() == [0, 0, 0]
    assert sample_frames(spec(4, whole_video=True), TIMES[:2]).tolist() == [0, 0, 1, 1]


def test_segments_take_their_centres_or_any_frame() -> None:
    segments = spec(4, whole_video=True)
    assert sample_frames(segments, TIMES).tolist() == [12, 37, 62, 87]
    assert sample_frames(segments, TIMES, view=0, num_views=2).tolist() == [6, 31, 56, 81]
    assert sample_frames(segments, TIMES, view=1, num_views=2).tolist() == [18, 43, 68, 93]
    rng = np.random.default_rng(0)
    clips = np.stack([sample_frames(segments, TIMES[:10], rng=rng) for _ in range(500)])
    # Parts of 2.5 frames: the third frame belongs half to the first part and half to the second.
    found = [sorted(set(column.tolist())) for column in clips.T]
    assert found == [[0, 1, 2], [2, 3, 4], [5, 6, 7], [7, 8, 9]]


def test_rate_goes_by_time() -> None:
    # 30 frames per second sampled at 10: every third, whatever the rate is called.
    assert np.diff(sample_frames(spec(5, sample_fps=10), np.arange(90) / 30)).tolist() == [3] * 4
    # One frame per 0.1 s for 1 s, then one per 0.5 s; 4 samples per second from 0: times 0, 0.25,
    # ..., 2.75.
    variable = np.concatenate([np.arange(10) / 10, 1 + np.arange(5) / 2])
    clip = sample_frames(spec(12, sample_fps=4), variable, view=0, num_views=2)
    assert clip.tolist() == [0, 2, 5, 7, 10, 10, 11, 11, 12, 12, 13, 13]


def test_times_rounded_to_milliseconds_lose_and_double_no_frame() -> None:
    rounded = np.round(np.arange(300) / 30, 3)
    assert sample_frames(spec(300, sample_fps=30), rounded).tolist() == list(range(300))


def test_spans() -> None:
    one = spec(2, stride_frames=1)
    assert sample_frames(one, TIMES, start_seconds=1.0, end_seconds=1.08).tolist() == [25, 26]
    assert sample_frames(one, TIMES, start_seconds=3.92).tolist() == [98, 99]
    assert sample_frames(one, TIMES, end_seconds=0.08).tolist() == [0, 1]
    assert sample_frames(one, TIMES, start_seconds=3.9, end_seconds=100.0).tolist() == [98, 99]
    # between two frames
    assert sample_frames(one, TIMES, start_seconds=1.01, end_seconds=1.02).tolist() == [25, 25]
    four, rng = spec(4, stride_frames=1), np.random.default_rng(0)
    for _ in range(20):
        clip = sample_frames(four, TIMES, start_seconds=1, end_seconds=2, rng=rng)
        assert 25 <= clip.min() <= clip.max() < 50


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (2.0, 2.0, "the span from 2 s to 2 s is empty"),
        (4.1, 9.0, "lies outside the video, whose last frame is shown at 3.96 s"),
        (float("nan"), None, "is empty"),
    ],
)
def test_spans_without_frames_are_one_line(start: float, end: float | None, message: str) -> None:
    with pytest.raises(VidgraphError) as caught:
        sample_frames(spec(2, stride_frames=1), TIMES, start_seconds=start, end_seconds=end)
    assert message in str(caught.value)


def test_a_view_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="view 3 of 3"):
        sample_frames(spec(2, stride_frames=1), TIMES, view=3, num_views=3)


def test_linspace_runs_from_the_first_frame_to_the_last_and_draws_nothing() -> None:
    whole = spec(4, whole_video=True)
    by_length = {10: [0, 3, 6, 9], 6: [0, 1, 3, 5], 4: [0, 1, 2, 3], 3: [0, 0, 1, 2], 1: [0] * 4}
    for length, expected in by_length.items():
        for rng in (None, np.random.default_rng(length)):
            clip = sample_frames(whole, TIMES[:length], rng=rng, spread="linspace")
            assert clip.tolist() == expected
    # The RSTG authors' second clip lies half a step, round(0.5 * 40 / 4) = 5 frames, further;
    # nothing lies after the end.
    two = {"num_views": 2, "spread": "linspace"}
    views = [sample_frames(whole, TIMES[:40], view=v, **two).tolist() for v in range(2)]
    assert views == [[0, 13, 26, 39], [5, 18, 31, 39]]
    # Their own numbers: 32 frames of a video of 48, the second clip round(0.75) = 1 later.
    many = spec(32, whole_video=True)
    first, second = (sample_frames(many, TIMES[:48], view=v, **two) for v in range(2))
    assert first[:8].tolist() == [0, 1, 3, 4, 6, 7, 9, 10]
    assert first[-1] == 47
    assert second.tolist() == np.minimum(first + 1, 47).tolist()


def test_a_looped_clip_longer_than_its_span_starts_at_other_frames() -> None:
    """Starts are floor(i * frames / clips), as in video-nonlocal-net."""
    long = spec(4, stride_frames=3)  # needs 10 frames of 7
    clamped, looped = (
        [sample_frames(long, TIMES[:7], view=v, num_views=3, past_end=p).tolist() for v in range(3)]
        for p in ("clamp", "loop")
    )
    assert looped == [[0, 3, 6, 2], [2, 5, 1, 4], [4, 0, 3, 6]]
    assert clamped == [clamped[0]] * 3  # they cannot differ
    rng = np.random.default_rng(0)
    starts = {int(sample_frames(long, TIMES[:7], rng=rng, past_end="loop")[0]) for _ in range(100)}
    assert starts == set(range(7))
    six, two = spec(6, sample_fps=25), {"num_views": 2, "past_end": "loop"}
    by_time = [sample_frames(six, TIMES[:4], view=v, **two).tolist() for v in range(2)]
    assert by_time == [[0, 1, 2, 3, 0, 1], [2, 3, 0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("spacing", "enough", "message"),
    [
        ({"stride_frames": 3}, 10, "a clip needs 10 frames, and the video has 9; let it repeat"),
        ({"whole_video": True}, 4, "a clip needs 4 frames, and the video has 3"),
        ({"sample_fps": 5.0}, 16, "needs frames from 0 to 0.6 s, and the video's last is at 0.56"),
    ],
)
def test_a_clip_longer_than_the_video_is_refused_if_so_wanted(
    spacing: dict[str, float], enough: int, message: str
) -> None:
    four = spec(4, **spacing)
    assert len(sample_frames(four, TIMES[:enough], past_end="refuse")) == 4
    with pytest.raises(VidgraphError) as caught:
        sample_frames(four, TIMES[: enough - 1], past_end="refuse")
    assert message in str(caught.value)
    assert len(sample_frames(four, TIMES[: enough - 1])) == 4


@pytest.mark.parametrize(
    "spacing", [{"stride_frames": 1}, {"whole_video": True}, {"sample_fps": 25.0}]
)
def test_more_views_than_frames(spacing: dict[str, float]) -> None:
    """They are spread as others are, and some of them are equal."""
    two = spec(2, **spacing)
    for past_end in ("clamp", "loop"):
        clips = [
            sample_frames(two, TIMES[:5], view=view, num_views=25, past_end=past_end).tolist()
            for view in range(25)
        ]
        starts = [clip[0] for clip in clips]
        assert starts == sorted(starts)
        assert 2 <= len(set(starts)) <= 5
        assert max(max(clip) for clip in clips) == 4
