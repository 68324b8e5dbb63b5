"""Flow in 8 bits and in a store: rounding, bounds that grow with the frame, what mirroring does;
any flow frame alone, exactly; a store that does not fit is refused in one line.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vidgraph.errors import DataError
from vidgraph.precompute.flow_store import (
    FLOW,
    FlowStore,
    bounds_pixels,
    dequantize,
    pack_flow,
    quantize,
)
from vidgraph.precompute.store import (
    Header,
    Method,
    fingerprint,
    path_in_store,
    save_file,
    size_bytes,
)

METHOD = Method(FLOW, "dis", 1, {"bound": 20.0, "short_side": None})
FLOW_FRAMES = np.random.default_rng(0).integers(0, 256, (6, 9, 14, 2), dtype=np.uint8)


# ---- in 8 bits -----------------------------------------------------------------------------------


def motion_of(values: np.ndarray, height: int = 256, width: int = 340) -> np.ndarray:
    """One row of motions, x and y alike, in a frame of this size."""
    motion = np.zeros((height, width, 2), np.float32)
    motion[0, : len(values)] = np.asarray(values, np.float32)[:, None]
    return motion


def test_bytes_by_hand() -> None:
    """255 (v / 20 + 1) / 2 to the nearest, and 128 for none; -20 and 20 are the ends. 10 is 191.25,
    -10 is 63.75, 0.05 is 127.8, and 0.2 is 128.8."""
    values = [0, 20, -20, 10, -10, 0.05, -0.05, 0.2, 33, -1e9]
    expected = [128, 255, 0, 191, 64, 128, 127, 129, 255, 0]
    found = quantize(motion_of(np.array(values)))
    assert found.dtype == np.uint8
    assert found[0, : len(values), 0].tolist() == found[0, : len(values), 1].tolist() == expected


def test_every_byte_by_the_slow_formula() -> None:
    values = np.random.default_rng(0).uniform(-22, 22, 300)
    slow = [min(255, max(0, round(255 * (np.float32(v) / 20 + 1) / 2))) for v in values]
    assert quantize(motion_of(values))[0, :300, 0].tolist() == slow


@pytest.mark.parametrize("bound", [20.0, 15.0])
def test_the_round_trip_is_within_half_a_level(bound: float) -> None:
    """0.0784 pixels of 20, at most; that there is no motion is off by as much, as no byte stands
    for it."""
    values = np.linspace(-bound, bound, 340)
    back = dequantize(quantize(motion_of(values), bound), bound)[0, :, 0]
    errors = np.abs(back - values.astype(np.float32))
    assert 0.85 * bound / 255 < errors.max() <= bound / 255 + 1e-5
    still = dequantize(quantize(motion_of(np.zeros(1)), bound), bound)
    assert still[0, 0] == pytest.approx([bound / 255] * 2)


@pytest.mark.parametrize(("height", "width"), [(256, 340), (128, 170), (64, 510), (33, 31)])
def test_the_bound_grows_with_the_frame(height: int, width: int) -> None:
    """x by the width and y by the height, so that the same motion of the same picture has the same
    bytes at every size."""
    bounds = bounds_pixels(height, width)
    assert bounds.tolist() == pytest.approx([20 * width / 340, 20 * height / 256])
    relative = np.random.default_rng(1).uniform(-0.06, 0.06, (20, 2))  # of the frame's sides
    whole, here = np.zeros((256, 340, 2), np.float32), np.zeros((height, width, 2), np.float32)
    whole[0, :20], here[0, :20] = relative * [340, 256], relative * [width, height]
    assert np.array_equal(quantize(whole)[0, :20], quantize(here)[0, :20])
    errors = np.abs(dequantize(quantize(here)) - here)[0, :20].max(0)
    assert (errors <= 0.08 * np.array([width / 340, height / 256])).all()


def test_mirroring_is_exact() -> None:
    """The byte of the opposite motion is 255 less the byte, halves of a level included, and stands
    for exactly the opposite."""
    halves = np.arange(1, 128) * 20 / 127.5  # between two bytes each
    drawn = np.random.default_rng(2).uniform(-25, 25, 120)
    motion = motion_of(np.concatenate([drawn, halves[:90], -halves[40:127]]))[:1, :297]
    assert np.array_equal(quantize(-motion), 255 - quantize(motion))
    assert np.array_equal(dequantize(255 - quantize(motion)), -dequantize(quantize(motion)))


# ---- in a store ----------------------------------------------------------------------------------


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Stands for a video: a store looks at its name and bytes only."""
    (tmp_path / "anna.mp4").write_bytes(b"anna walks")
    return tmp_path / "anna.mp4"


def write_flow(folder: Path, video: Path, packed: list[np.ndarray], method: Method) -> FlowStore:
    known = size_bytes(video), fingerprint(video)
    header = Header(method, video.name, *known, 7, 9, 14, list(range(6)))
    save_file(path_in_store(folder, video.name), header, packed)
    return FlowStore(folder, method.settings["bound"])


@pytest.fixture
def store(tmp_path: Path, video: Path) -> FlowStore:
    return write_flow(tmp_path / "flow", video, list(map(pack_flow, FLOW_FRAMES)), METHOD)


def test_a_still_scene_takes_little_room() -> None:
    still = np.full((256, 340, 2), 128, np.uint8)
    assert len(pack_flow(still)) < still.size / 500


def test_flow_frames_in_any_order_and_repeated(store: FlowStore, video: Path) -> None:
    flow = store.reader(video)
    assert (flow.num_flow_frames, flow.height, flow.width) == (6, 9, 14)
    for indices in ([5, 0, 0, 3], np.array([2]), list(range(6))):
        found = flow.read(indices)
        assert found.dtype == np.uint8
        assert np.array_equal(found, FLOW_FRAMES[indices])
    assert flow.read([]).shape == (0, 9, 14, 2)
    for wrong, index in (([0, 6], 6), ([-1, 0], -1)):
        with pytest.raises(DataError, match=f"anna.* has no flow frame {index}, there are 6"):
            flow.read(wrong)


def test_a_store_of_another_bound(tmp_path: Path, store: FlowStore, video: Path) -> None:
    message = r"flow: holds flow up to 20\.0 pixels at 340x256, and 15 is asked for; extract with "
    with pytest.raises(DataError, match=message + "--bound 15 into a new store"):
        FlowStore(store.folder, 15)
    other = replace(METHOD, settings={"bound": 15.0, "short_side": None})
    fifteen = write_flow(tmp_path / "other", video, list(map(pack_flow, FLOW_FRAMES)), other)
    assert np.array_equal(fifteen.reader(video).read([1]), FLOW_FRAMES[[1]])


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        (pack_flow(FLOW_FRAMES[0, :8]), "cannot reshape"),
        (np.frombuffer(b"no zlib", np.uint8), "incorrect header check"),
        (pack_flow(FLOW_FRAMES[0])[:-3], "incomplete or truncated"),
        (np.frombuffer(zlib.compress(bytes(252))[:-1] + b"x", np.uint8), "incorrect data check"),
    ],
)
def test_a_damaged_flow_frame_is_found_as_it_is_read(
    tmp_path: Path, video: Path, packed: np.ndarray, problem: str
) -> None:
    frames = [pack_flow(FLOW_FRAMES[0]), packed, *map(pack_flow, FLOW_FRAMES[2:])]
    flow = write_flow(tmp_path / "flow", video, frames, METHOD).reader(video)
    assert np.array_equal(flow.read([0, 5]), FLOW_FRAMES[[0, 5]])
    with pytest.raises(DataError, match=f"safetensors, frame 1: is damaged .*{problem}") as error:
        flow.read([0, 1])
    assert str(error.value).endswith("delete the file and extract again")
