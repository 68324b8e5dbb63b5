"""Flow in a store: any field alone, exactly; every store that does not fit is refused in one
line.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from vidgraph.errors import DataError
from vidgraph.precompute.container import Header, Method, source_of, write_records
from vidgraph.precompute.flow_fields import FLOW
from vidgraph.precompute.flow_images import FlowImages
from vidgraph.precompute.flow_store import FlowStore, decode_field, encode_field, open_flow
from vidgraph.precompute.store import BOXES, Store

METHOD = Method(FLOW, "dis", 1, {"bound": 20.0, "short_side": None})
FIELDS = np.random.default_rng(0).integers(
    0, 256, (6, 9, 14, 2), dtype=np.uint8
)  # of a video of 7 frames


def write_flow(
    store: Store,
    video: Path,
    name: str,
    fields: np.ndarray = FIELDS,
    frames: list[int] | None = None,
) -> Path:
    indices = list(range(len(fields))) if frames is None else frames
    header = Header(store.method, source_of(video, name), 7, *fields.shape[1:3], 0, indices)
    write_records(store.path_of(name), header, (encode_field(field) for field in fields))
    return store.path_of(name)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Stands for a video: a store looks at its name and bytes only."""
    path = tmp_path / "data" / "walk" / "anna.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"anna walks")
    return path


@pytest.fixture
def folder(tmp_path: Path, video: Path) -> Path:
    write_flow(Store.claim(tmp_path / "flow", METHOD), video, "walk/anna.mp4")
    return tmp_path / "flow"


def test_a_record_comes_back_exactly_and_is_small_where_little_moves() -> None:
    assert np.array_equal(decode_field(encode_field(FIELDS[0]), 9, 14), FIELDS[0])
    still = np.full((256, 340, 2), 128, np.uint8)
    assert len(encode_field(still)) < still.size / 500
    with pytest.raises(ValueError, match="cannot reshape"):
        decode_field(encode_field(FIELDS[0]), 9, 15)


def test_fields_in_any_order_and_repeated(folder: Path, video: Path) -> None:
    flow = open_flow(folder).flow(video)
    assert (flow.num_fields, flow.height, flow.width) == (6, 9, 14)
    for indices in ([5, 0, 0, 3], np.array([2]), list(range(6))):
        found = flow.read(indices)
        assert found.dtype == np.uint8
        assert np.array_equal(found, FIELDS[indices])
    assert flow.read([]).shape == (0, 9, 14, 2)
    for wrong in ([0, 6], [-1, 0]):
        with pytest.raises(
            DataError, match=r"anna\.mp4\.flow: has no flow field (6|-1), there are 6"
        ):
            flow.read(wrong)


def test_how_it_was_made(folder: Path) -> None:
    expected = {
        "record": "flow",
        "method": "dis",
        "version": 1,
        "settings": {"bound": 20.0, "short_side": None},
    }
    assert open_flow(folder).method_dict() == expected


def one_line(error: pytest.ExceptionInfo[DataError], *parts: str) -> None:
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_folders_that_hold_no_flow(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError) as error:
        open_flow(tmp_path / "nowhere")
    one_line(
        error, "nowhere: there is no such store; make one with vidgraph extract flow VIDEOS --out "
    )
    with pytest.raises(DataError) as error:
        open_flow(tmp_path / "data")
    one_line(error, "data: is no store, it holds no store.json")
    Store.claim(tmp_path / "boxes", Method(BOXES, "motion", 1, {}))
    with pytest.raises(DataError) as error:
        open_flow(tmp_path / "boxes")
    one_line(error, "boxes: holds boxes, not flow")


def test_a_store_of_another_bound(tmp_path: Path, folder: Path, video: Path) -> None:
    with pytest.raises(DataError) as error:
        open_flow(folder, bound=15)
    one_line(
        error,
        "flow: holds flow up to 20.0 pixels at 340x256, and 15 is asked for; extract with --bound "
        "15 into a new store",
    )
    other = Store.claim(
        tmp_path / "other", Method(FLOW, "dis", 1, {"bound": 15.0, "short_side": None})
    )
    write_flow(other, video, "anna.mp4")
    with pytest.raises(DataError) as error:
        open_flow(other.folder)
    one_line(error, "other: holds flow up to 15.0 pixels at 340x256, and 20 is asked for")
    assert np.array_equal(open_flow(other.folder, 15).flow(video).read([1]), FIELDS[[1]])


def test_another_video_and_a_missing_one(folder: Path, video: Path, tmp_path: Path) -> None:
    store = open_flow(folder)
    with pytest.raises(DataError) as error:
        store.flow(tmp_path / "data" / "run" / "ben.mp4")
    one_line(error, "flow: holds no flow of ", "ben.mp4; run vidgraph extract for it too")
    for content in (b"ben runs, and is longer", b"anna talks"):
        video.write_bytes(content)
        with pytest.raises(DataError) as error:
            store.flow(video)
        one_line(
            error,
            "anna.mp4.flow: holds the flow of another video than ",
            "or of it before it changed; delete the file and extract",
        )


def test_files_that_are_half_written_or_do_not_fit(folder: Path, video: Path) -> None:
    path = folder / "walk" / "anna.mp4.flow"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(DataError) as error:
        open_flow(folder).flow(video)
    one_line(error, "anna.mp4.flow: is cut short", "run the same vidgraph extract again")
    path.write_bytes(whole[:-9] + b"something")
    with pytest.raises(DataError) as error:
        open_flow(folder).flow(video).read([5])
    one_line(error, "anna.mp4.flow, frame 5: the record is damaged")
    path.write_bytes(whole.replace(b'"bound":20.0', b'"bound":15.0'))
    with pytest.raises(DataError) as error:
        open_flow(folder).flow(video)
    one_line(
        error, "does not belong to this store, it is of dis (bound 15.0), not of dis (bound 20.0)"
    )
    write_flow(Store(folder, FLOW), video, "walk/anna.mp4", FIELDS[:5], [0, 1, 2, 4, 5])
    with pytest.raises(DataError) as error:
        open_flow(folder).flow(video)
    one_line(error, "anna.mp4.flow: does not hold a field for every frame but the last")


def test_records_of_another_size(folder: Path, video: Path) -> None:
    """Sound bytes of something else, as another program may have written them."""
    store = Store(folder, FLOW)
    header = Header(METHOD, source_of(video, ""), 7, 9, 14, 0, list(range(6)))
    for record, problem in (
        (encode_field(FIELDS[0, :8]), "cannot reshape"),
        (b"no zlib", "incorrect header check"),
    ):
        write_records(store.path_of("walk/anna.mp4"), header, [record] * 6)
        with pytest.raises(DataError) as error:
            open_flow(folder).flow(video).read([2])
        one_line(
            error,
            "anna.mp4.flow, frame 2: holds no field of 14x9 pixels",
            problem,
            "delete the file and extract again",
        )


def test_a_store_moves_with_its_videos(tmp_path: Path, folder: Path, video: Path) -> None:
    shutil.move(folder, tmp_path / "elsewhere")
    moved = tmp_path / "copy" / "walk" / "anna.mp4"
    moved.parent.mkdir(parents=True)
    shutil.copy(video, moved)
    assert np.array_equal(open_flow(tmp_path / "elsewhere").flow(moved).read([4]), FIELDS[[4]])


def test_the_kind_of_a_folder_is_seen(tmp_path: Path, folder: Path) -> None:
    images = tmp_path / "images" / "walk" / "anna"
    images.mkdir(parents=True)
    (images / "flow_x_00001.jpg").write_bytes(b"")
    assert isinstance(open_flow(tmp_path / "images"), FlowImages)
    assert isinstance(open_flow(folder), FlowStore)
