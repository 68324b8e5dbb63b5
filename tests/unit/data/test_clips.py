"""Clips from tables: their content, and that nothing but (seed, epoch, index) decides it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tables import SPANS, write_table
from torch.utils.data import DataLoader

from vidgraph.data.clips import ClipDataset
from vidgraph.data.table import VideoTable, load_table
from vidgraph.errors import DataError, TableError, VideoError
from vidgraph.records import ClipBatch, InputSpec, Regions
from vidgraph.video.crops import CropDraws
from vidgraph.video.views import ViewPlan
from vidgraph.video.writer import write_video

SPEC = InputSpec(num_frames=4, height=32, width=32, stride_frames=2)
FLIP = CropDraws(SPEC, train=True, flip=True)


def shaded(path: Path, num_frames: int, base: int, fps: float = 10) -> None:
    """Frame t is a flat grey of 8 t + base: a decoded pixel tells its frame."""
    frames = np.empty((num_frames, 40, 56, 3), np.uint8)
    for t in range(num_frames):
        frames[t] = 8 * t + base
    write_video(path, frames, fps, lossless=True)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> VideoTable:
    folder = tmp_path_factory.mktemp("clips")
    for i in range(6):
        shaded(folder / f"{i}.mp4", 20 + i, i)
    labels, splits = ("run", "walk") * 3, ("train",) * 4 + ("test",) * 2
    rows = [f"{i}.mp4,{labels[i]},{splits[i]},," for i in range(6)]
    rows += ["0.mp4,run,span,1.0,1.5", "gone.mp4,run,broken,,", "text.mp4,run,broken,,"]
    rows += ["0.mp4,run,late,7,8"]
    (folder / "text.mp4").write_text("no video")
    return write_table(folder, *rows, header=SPANS, name="clips.csv")


def same(a: ClipBatch, b: ClipBatch) -> bool:
    return a.names == b.names and all(
        torch.equal(getattr(a, k), getattr(b, k))
        for k in ("video", "label", "index", "frame_indices")
    )


def test_a_clip_holds_the_frames_that_it_names(table: VideoTable) -> None:
    dataset = ClipDataset(table, "train", SPEC, train=False)
    assert (len(dataset), dataset.skipped) == (4, 0)
    assert (dataset.class_names, dataset.labels.tolist()) == (["run", "walk"], [0, 1, 0, 1])
    clip = dataset[1]
    assert clip.video.shape == (1, 3, 4, 32, 32)
    assert clip.video.dtype == torch.uint8
    assert (clip.label.tolist(), clip.index.tolist(), clip.regions) == ([1], [1], None)
    assert Path(clip.names[0]).name == "1.mp4"
    assert clip.frame_indices.dtype == torch.int64
    assert (clip.frame_indices.diff() == 2).all()
    expected = 8 * clip.frame_indices[0] + 1
    assert (clip.video[0].float().mean((0, 2, 3)) - expected).abs().max() <= 2


def test_training_depends_on_seed_epoch_and_index_alone(table: VideoTable) -> None:
    def starts(dataset: ClipDataset) -> list[int]:
        return [int(dataset[i].frame_indices[0, 0]) for i in range(4)]

    dataset = ClipDataset(table, "train", SPEC, train=True, seed=3, crops=FLIP)
    first = [dataset[i] for i in range(4)]
    assert all(same(dataset[i], first[i]) for i in (3, 1, 2, 0))
    again = ClipDataset(table, "train", SPEC, train=True, seed=3, crops=FLIP)
    assert all(same(again[i], first[i]) for i in range(4))
    by_epoch = []
    for epoch in range(8):
        dataset.set_epoch(epoch)
        by_epoch.append(starts(dataset))
    assert len(set(map(tuple, by_epoch))) == 8
    dataset.set_epoch(0)
    assert same(dataset[2], first[2])
    other_seed = ClipDataset(table, "train", SPEC, train=True, seed=4)
    assert starts(other_seed) != by_epoch[0]
    test = ClipDataset(table, "train", SPEC, train=False)
    before = test[0]
    test.set_epoch(5)
    assert same(test[0], before)


def test_views_of_a_row_follow_one_another(table: VideoTable) -> None:
    dataset = ClipDataset(table, "test", SPEC, train=False, views=ViewPlan(num_views=3))
    assert (len(dataset), len(dataset.labels)) == (6, 2)
    clips = [dataset[i] for i in range(6)]
    assert [int(clip.index) for clip in clips] == [0, 0, 0, 1, 1, 1]
    starts = [int(clip.frame_indices[0, 0]) for clip in clips]
    assert starts[0] < starts[1] < starts[2]
    with pytest.raises(ValueError, match="training takes one clip and one crop"):
        ClipDataset(table, "test", SPEC, train=True, views=ViewPlan(num_views=3))
    with pytest.raises(IndexError):
        dataset[6]


def test_spans_bound_the_frames(table: VideoTable) -> None:
    spec = InputSpec(num_frames=2, height=32, width=32, stride_frames=1)
    dataset = ClipDataset(table, "span", spec, train=True)
    drawn = set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        drawn |= set(dataset[0].frame_indices[0].tolist())
    assert drawn <= {10, 11, 12, 13, 14}
    assert len(drawn) > 2


def test_a_bad_video_is_named_with_its_row(table: VideoTable) -> None:
    dataset = ClipDataset(table, "broken", SPEC, train=True)
    for i, (name, line) in enumerate((("gone.mp4", 9), ("text.mp4", 10))):
        with pytest.raises(VideoError) as error:
            dataset[i]
        assert str(error.value).startswith(f"{table.folder / name}: ")
        assert str(error.value).endswith(f" (clips.csv, line {line})")
        assert "\n" not in str(error.value)
        assert error.value.path == table.folder / name


def test_a_span_beyond_the_end_is_named_with_its_row(table: VideoTable) -> None:
    with pytest.raises(VideoError, match=r"0\.mp4: .*\(clips\.csv, line 11\)$"):
        ClipDataset(table, "late", SPEC, train=True)[0]


def test_skipped_rows_are_left_out_and_counted(table: VideoTable) -> None:
    skip = {"0.mp4", str(table.folder / "2.mp4"), "elsewhere.mp4"}
    dataset = ClipDataset(table, "train", SPEC, train=False, skip=skip)
    assert (len(dataset), dataset.skipped, dataset.labels.tolist()) == (2, 2, [1, 1])
    assert [Path(dataset[i].names[0]).name for i in range(2)] == ["1.mp4", "3.mp4"]
    with pytest.raises(DataError, match="leaves none of the 2 rows of split 'broken'"):
        ClipDataset(table, "broken", SPEC, train=False, skip={"gone.mp4", "text.mp4"})
    with pytest.raises(TableError, match="no rows of split 'val'"):
        ClipDataset(table, "val", SPEC, train=False)


def test_luma_and_multi_label(tmp_path: Path) -> None:
    shaded(tmp_path / "0.mp4", 10, 5)
    table = write_table(tmp_path, "0.mp4,a|c,train", "0.mp4,,train", "0.mp4,b,train")
    spec = InputSpec(num_frames=3, height=24, width=24, channels=1, whole_video=True)
    dataset = ClipDataset(table, "train", spec, train=False)
    batch = ClipBatch.joined([dataset[i] for i in range(3)])
    assert batch.video.shape == (3, 1, 3, 24, 24)
    assert batch.label.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert batch.label.dtype == torch.float32


def test_batches_join_their_regions_or_refuse(table: VideoTable) -> None:
    dataset = ClipDataset(table, "train", SPEC, train=False)
    clips = [dataset[0], dataset[1]]
    exists = torch.ones(1, 4, 2, dtype=torch.bool)
    clips[0].regions = Regions(torch.zeros(1, 4, 2, 4), torch.ones(1, 4, 2), exists)
    with pytest.raises(ValueError, match="1 of 2 samples have regions"):
        ClipBatch.joined(clips)
    clips[1].regions = Regions(torch.ones(1, 4, 2, 4), torch.ones(1, 4, 2), exists)
    batch = ClipBatch.joined(clips)
    assert batch.regions is not None
    assert batch.regions.boxes_xyxy.mean((1, 2, 3)).tolist() == [0.0, 1.0]
    assert len(batch) == len(batch.names) == 2


def epochs(dataset: ClipDataset, workers: int, context: str | None) -> list[ClipBatch]:
    """Two epochs, each with workers of its own."""
    how = {"num_workers": workers, "multiprocessing_context": context}
    loader = DataLoader(dataset, batch_size=3, collate_fn=ClipBatch.joined, **how)
    batches = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        batches += list(loader)
    return batches


def test_forked_workers_change_nothing(table: VideoTable) -> None:
    dataset = ClipDataset(table, "train", SPEC, train=True, crops=FLIP)
    alone, forked = epochs(dataset, 0, None), epochs(dataset, 2, "fork")
    assert [len(batch) for batch in alone] == [3, 1, 3, 1]
    assert all(same(a, b) for a, b in zip(alone, forked, strict=True))
    assert not same(alone[0], alone[2])


def test_errors_of_videos_travel_between_processes(table: VideoTable) -> None:
    with pytest.raises(VideoError) as caught:
        ClipDataset(table, "broken", SPEC, train=True)[0]
    error = pickle.loads(pickle.dumps(caught.value))
    gone = table.folder / "gone.mp4"
    assert str(error) == f"{gone}: there is no such file (clips.csv, line 9)"
    assert (type(error), error.path, error.frame) == (VideoError, gone, None)
    torn = pickle.loads(pickle.dumps(VideoError("a.mp4", "torn", 7)))
    assert (str(torn), torn.path, torn.frame) == ("a.mp4, frame 7: torn", Path("a.mp4"), 7)


def test_weizmann_clips(shared_data: Path) -> None:
    columns = {"video": "path", "label": "class", "split": "person"}
    table = load_table(shared_data / "data" / "weizmann" / "manifest.csv", columns)
    spec = InputSpec(num_frames=8, height=112, width=112, whole_video=True)
    dataset = ClipDataset(table, "daria", spec, train=False)
    batch = ClipBatch.joined([dataset[i] for i in range(len(dataset))])
    assert batch.video.shape == (10, 3, 8, 112, 112)
    assert batch.label.tolist() == list(range(10))
    assert (batch.frame_indices.diff(dim=1) > 0).all()
    assert 60 < batch.video.float().mean() < 200
