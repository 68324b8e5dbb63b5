"""Methods of optical flow: known motions are found, and what is stored equals what is computed on
the way.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vidgraph.errors import DataError, VideoError
from vidgraph.precompute.extract import Task, extract
from vidgraph.precompute.flow import FlowJob, open_flow
from vidgraph.precompute.flow_store import FlowStore, dequantize, quantize
from vidgraph.video.reader import open_video
from vidgraph.video.writer import write_video

CLASSIC = ["dis", "tvl1"]  # those that need no weights


def motion_of(method: str, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    loaded = FlowJob(method).load()
    return loaded.compute(loaded.prepare(first), [loaded.prepare(second)])


def scene(height: int, width: int) -> np.ndarray:
    """Blotches of many sizes, larger than the frame by 40 pixels on every side, four times as fine
    as its pixels, [4 H', 4 W']."""
    rng = np.random.default_rng(0)
    size = 4 * (width + 80), 4 * (height + 80)
    layers = [
        cv2.resize(rng.uniform(0, 1, (cells, cells)), size, interpolation=cv2.INTER_CUBIC)
        for cells in (8, 16, 32, 64)
    ]
    total = np.sum(
        [weight * layer for weight, layer in zip((1.0, 0.8, 0.6, 0.4), layers, strict=True)], axis=0
    )
    return np.asarray(255 * (total - total.min()) / np.ptp(total))


def moved(whole: np.ndarray, x: float, y: float) -> np.ndarray:
    """The middle of a scene after it went x pixels to the right and y down (whole quarters), [H, W,
    3]."""
    top, left = round(4 * (40 - y)), round(4 * (40 - x))
    part = whole[top : top + whole.shape[0] - 320, left : left + whole.shape[1] - 320]
    grey = part.reshape(part.shape[0] // 4, 4, part.shape[1] // 4, 4).mean((1, 3))
    return np.repeat(np.rint(grey)[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("method", CLASSIC)
@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, -2), (-1.5, 0.75), (4, -3), (0, 0)])
def test_known_translations_are_found(method: str, x: float, y: float) -> None:
    """Within a quarter of a pixel away from the border: on average, and nine tenths of all places;
    also after 8 bits."""
    whole = scene(128, 170)
    motion = motion_of(method, moved(whole, 0, 0), moved(whole, x, y))
    assert motion.shape == (128, 170, 2)
    errors = np.hypot(*(motion - (x, y))[16:-16, 16:-16].transpose(2, 0, 1))
    assert errors.mean() < 0.25
    assert np.quantile(errors, 0.9) < 0.25
    back = dequantize(quantize(motion))
    assert np.hypot(*(back - (x, y))[16:-16, 16:-16].transpose(2, 0, 1)).mean() < 0.25


@pytest.mark.parametrize("method", CLASSIC)
def test_small_frames_work_too(method: str) -> None:
    """OpenCV's DIS ends the process on frames of a few pixels; they are continued by their
    border."""
    for height, width in ((4, 6), (24, 60)):
        whole = scene(height, width)
        motion = motion_of(method, moved(whole, 0, 0), moved(whole, 1, 0))
        assert motion.shape == (height, width, 2)
        assert np.isfinite(motion).all()
    assert np.median(motion[4:-4, 4:-4, 0]) == pytest.approx(1, abs=0.25)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of a scene that goes two pixels to the right and one up each time, without
    loss."""
    path, whole = tmp_path_factory.mktemp("videos") / "moving.mp4", scene(64, 96)
    write_video(path, np.stack([moved(whole, 2 * t, -t) for t in range(12)]), fps=10, lossless=True)
    return path


@pytest.mark.parametrize("short_side", [None, 40])
@pytest.mark.parametrize("method", CLASSIC)
def test_stored_flow_equals_flow_on_the_way(
    method: str, short_side: int | None, video: Path, tmp_path: Path
) -> None:
    job = FlowJob(method, short_side=short_side)
    report = extract(job, [Task(video, "moving.mp4")], tmp_path / "flow")
    assert (report.done, report.failures, report.counts["flow_frames"]) == (1, [], 11)
    stored = FlowStore(tmp_path / "flow").reader(video)
    height, width = (64, 96) if short_side is None else (40, 60)
    with open_video(video) as opened:
        live = job.reader(video, opened)
        for reader in (stored, live):
            assert (reader.num_flow_frames, reader.height, reader.width) == (11, height, width)
        for indices in ([3, 10, 3, 0], [10], list(range(11))):
            assert np.array_equal(stored.read(indices), live.read(indices))
    inner = dequantize(stored.read(range(11)))[:, 12:-12, 16:-16]
    scale = height / 64
    assert np.abs(np.median(inner, axis=(0, 1, 2)) - (2 * scale, -scale)).max() < 0.25


def test_flow_frames_computed_once_are_kept(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_video(video) as opened:
        live, first = (FlowJob().reader(video, opened) for _ in range(2))
        expected = first.read([2, 5])
        calls, compute = [], live._loaded.compute
        counted = lambda *frames: calls.append(1) or compute(*frames)  # noqa: E731
        monkeypatch.setattr(live._loaded, "compute", counted)
        assert np.array_equal(live.read([2, 5]), expected)
        assert np.array_equal(live.read([5, 2, 2]), expected[[1, 0, 0]])
        assert len(calls) == 2
        monkeypatch.setattr("vidgraph.precompute.flow._KEPT_BYTES", 3 * expected[0].nbytes)
        live.read(range(11))
        assert len(live._kept) == 3
        assert np.array_equal(live.read([2, 5]), expected)


def test_the_bound_cuts_off_and_is_counted(video: Path, tmp_path: Path) -> None:
    """With a bound of 1.5 pixels at 340x256, that is 0.42 across and 0.375 down, nearly all of the
    motion reaches it."""
    report = extract(FlowJob(bound=1.5), [Task(video, "moving.mp4")], tmp_path / "flow")
    assert report.counts["values"] == 11 * 64 * 96 * 2
    assert report.counts["cut_off"] > 0.8 * report.counts["values"]
    middle = FlowStore(tmp_path / "flow", 1.5).reader(video).read([4])[0, 32, 48]
    assert middle.tolist() == [255, 0]


def test_settings_are_those_that_flow_depends_on() -> None:
    assert FlowJob().method.to_dict() == {
        "kind": "flow",
        "method": "dis",
        "version": 1,
        "settings": {"bound": 20.0, "short_side": None},
    }
    assert FlowJob("tvl1", 15, 100).method.settings == {"bound": 15.0, "short_side": 100}


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for arguments, message in (
        (("diss",), "there is no method 'diss' of optical flow; did you mean 'dis'?"),
        (("dis", 0.0), "the bound of flow is a number of pixels above 0, not 0"),
        (("dis", float("nan")), "not nan"),
        (("tvl1", 20.0, None, "x.pth"), "the method tvl1 has no weights; they belong to raft"),
    ):
        with pytest.raises(DataError) as error:
            FlowJob(*arguments)
        assert message in str(error.value)
    still = tmp_path / "still.mp4"
    write_video(still, np.zeros((1, 48, 64, 3), np.uint8), fps=10)
    with (
        open_video(still) as opened,
        pytest.raises(VideoError, match=r"still\.mp4: the video has one frame, and optical flow"),
    ):
        FlowJob().reader(still, opened)


def test_where_flow_comes_from_is_named(video: Path, tmp_path: Path) -> None:
    extract(FlowJob(), [Task(video, "moving.mp4")], tmp_path / "flow")
    assert isinstance(open_flow(tmp_path / "flow"), FlowStore)
    assert open_flow("live") == FlowJob()
    assert open_flow("live:tvl1", 15) == FlowJob("tvl1", 15)
    assert open_flow("live").method == open_flow(tmp_path / "flow").method
    for where, message in (
        ("live:dsi", "no method 'dsi' of optical flow; did you mean 'dis'"),
        (tmp_path / "none", "none: does not exist; extract again: vidgraph extract flow"),
        ("live:", "live:: does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            open_flow(where)


def test_tvl1_without_the_contrib_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "optflow")
    with pytest.raises(
        DataError, match=r"TV-L1 is in OpenCV's contrib modules: .* opencv-contrib-python-headless"
    ):
        FlowJob("tvl1").load()


def test_a_mirrored_video_has_mirrored_flow(video: Path) -> None:
    """What training does to stored flow is, but for the method's own error, what the method finds
    in mirrored frames."""
    with open_video(video) as opened:
        frames = opened.read([0, 1])
    turned = np.ascontiguousarray(frames[:, :, ::-1])
    flow, mirrored = (quantize(motion_of("dis", *pair)) for pair in (frames, turned))
    expected = flow[:, ::-1].copy()
    expected[..., 0] = 255 - expected[..., 0]
    difference = np.abs(dequantize(mirrored) - dequantize(expected))[12:-12, 16:-16]
    assert difference.mean() < 0.1
