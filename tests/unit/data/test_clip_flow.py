"""Clips with optical flow: one crop and one mirroring for pixels and flow, from a store or computed
on the way.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tables import SPANS, write_table
from torch import Tensor, nn

from vidgraph.data.clips import ClipDataset
from vidgraph.data.table import VideoTable, load_table
from vidgraph.errors import DataError, RecipeError, VideoError
from vidgraph.evaluation.inference import evaluate
from vidgraph.precompute.extract import Task, extract
from vidgraph.precompute.flow import FlowJob, flow_as_trained, open_flow
from vidgraph.precompute.flow_store import FLOW, FlowStore, pack_flow
from vidgraph.precompute.store import (
    Header,
    Method,
    fingerprint,
    path_in_store,
    save_file,
    size_bytes,
)
from vidgraph.predictor import Predictor
from vidgraph.records import ClipBatch, InputSpec
from vidgraph.util import write_json
from vidgraph.video.crops import CropDraws
from vidgraph.video.reader import open_video
from vidgraph.video.views import ViewPlan
from vidgraph.video.writer import write_video

HEIGHT, WIDTH, FRAMES, STEP = 36, 60, 25, 5
SPEC = InputSpec(
    2, 24, 24, whole_video=True, flow_length=4, num_stacks=3, stack_interval=2, max_stack_interval=3
)
TEN = ViewPlan(num_views=3, crops=5, crop_places="corners", mirrored=True, short_side=30)


def shown(number: int) -> np.ndarray:
    """A smooth pattern whose every place tells itself, [H, W]; all of it is brighter by STEP for
    each frame."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return (x + 0.9 * y + STEP * number).round().astype(np.uint8)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> VideoTable:
    """Folders of frames, and a store of flow in which x and y of flow frame i are frame i: so that
    flow can be held against pixels."""
    folder = tmp_path_factory.mktemp("flow")
    for name in ("a", "b"):
        video = folder / "videos" / name
        video.mkdir(parents=True)
        for t in range(FRAMES):
            Image.fromarray(shown(t)).save(video / f"{t:04}.png")
        flow = (pack_flow(np.stack([shown(t)] * 2, axis=-1)) for t in range(FRAMES - 1))
        known, size = (size_bytes(video), fingerprint(video)), (FRAMES, HEIGHT, WIDTH)
        method = Method(FLOW, "by-hand", 1, {"bound": 20.0})
        header = Header(method, name, *known, *size, list(range(FRAMES - 1)))
        save_file(path_in_store(folder / "flow", name), header, flow)
    videos = ("videos/a,run", "videos/b,walk")
    rows = [f"{video},{split},," for video in videos for split in ("train", "test")]
    # frames 5 to 14, and frame 5; a folder has 25 per second
    rows += ["videos/a,run,span,0.2,0.6", "videos/a,run,single,0.2,0.24"]
    return write_table(folder, *rows, header=SPANS)


@pytest.fixture(scope="module")
def drawn(table: VideoTable) -> FlowStore:
    return FlowStore(table.folder / "flow")


def fields_of(clip: ClipBatch, mirrored: bool) -> np.ndarray:
    """The number of each field, [V, T, S, L], told by its level over the first frame's, where every
    pixel must agree."""
    assert clip.flow is not None
    flow = clip.flow.float().unflatten(3, (-1, 2))  # [V, T, S, L, 2, h, w]
    x, y = flow.unbind(4)
    x = 255 - x if mirrored else x
    grey = clip.video.float()[:, 0] - STEP * clip.frame_indices[..., None, None]  # [V, T, h, w]
    above = torch.stack([axis - grey[:, :, None, None] for axis in (x, y)])  # [2, V, T, S, L, h, w]
    numbers = above.mean((-1, -2)) / STEP
    # The same place of the pattern lies under every pixel.
    assert (above - numbers[..., None, None] * STEP).abs().max() <= 2
    assert torch.equal(numbers.round()[0], numbers.round()[1])
    return numbers[0].round().int().numpy()


def test_training_crops_and_mirrors_all_alike(table: VideoTable, drawn: FlowStore) -> None:
    """Also with corner crops; mirrored clips are told by the pattern, which rises from left to
    right."""
    for draws in ({"crop_scales": (1.0, 0.875, 0.75, 0.66)}, {"short_side": (30, 40)}, {}):
        transform = CropDraws(SPEC, train=True, flip=True, **draws)
        dataset = ClipDataset(table, "train", SPEC, train=True, seed=1, crops=transform, flow=drawn)
        seen, steps = set(), set()
        for epoch in range(24):
            dataset.set_epoch(epoch)
            clip = dataset[epoch % 2]
            row = clip.video[0, 0, 0, 12].float()
            mirrored = bool(row[0] > row[-1])
            numbers = fields_of(clip, mirrored)
            assert numbers.shape == (1, 2, 3, 4)
            assert (np.diff(numbers, axis=3) == 1).all()
            for t, anchor in enumerate(clip.frame_indices[0].tolist()):
                stacks = {d: np.clip([anchor - d, anchor, anchor + d], 0, 20) for d in (1, 2, 3)}
                fits = [d for d, one in stacks.items() if (one == numbers[0, t, :, 0]).all()]
                assert fits
                steps |= set(fits) if len(fits) == 1 else set()
            seen.add(mirrored)
        assert seen == {False, True}
        assert steps == {1, 2, 3}


def test_views_hold_the_snippets_around_their_frames(table: VideoTable, drawn: FlowStore) -> None:
    dataset = ClipDataset(table, "test", SPEC, train=False, flow=drawn, views=TEN)
    assert len(dataset) == 6
    for i in range(3):
        clip = dataset[i]
        assert clip.flow is not None
        assert clip.flow.shape == (10, 2, 3, 8, 24, 24)
        plain = fields_of(clip.part(0, 5), mirrored=False)
        assert (plain == fields_of(clip.part(5, 10), mirrored=True)).all()
        anchors = clip.frame_indices[0].numpy()
        first = np.clip(anchors[:, None] + [-2, 0, 2], 0, 20)
        assert (plain == first[..., None] + np.arange(4)).all()
    views = ViewPlan(stack_interval=5)
    wide = ClipDataset(table, "test", SPEC, train=False, flow=drawn, views=views)[0]
    first = np.clip(int(wide.frame_indices[0, 0]) + np.array([-5, 0, 5]), 0, 20)
    assert (fields_of(wide, mirrored=False)[0, 0, :, 0] == first).all()


def test_25_anchors_are_the_centres_of_equal_parts(table: VideoTable, drawn: FlowStore) -> None:
    spec, views = replace(SPEC, num_frames=1), ViewPlan(num_views=25)
    dataset = ClipDataset(table, "test", spec, train=False, flow=drawn, views=views)
    assert [int(dataset[i].frame_indices) for i in range(25)] == list(range(25))


def test_snippets_stay_within_the_span(table: VideoTable, drawn: FlowStore) -> None:
    for train in (False, True):
        clip = ClipDataset(table, "span", SPEC, train=train, flow=drawn)[0]
        numbers = fields_of(clip, mirrored=False)
        assert numbers.min() >= 5
        assert numbers.max() <= 13
    words = r"a: optical flow needs two frames, and there is one; .*\(t\.csv, line 7\)$"
    with pytest.raises(VideoError, match=words):
        ClipDataset(table, "single", SPEC, train=False, flow=drawn)[0]


def test_past_end_refuse_holds_for_snippets(table: VideoTable, drawn: FlowStore) -> None:
    long, views = replace(SPEC, flow_length=23), ViewPlan(past_end="refuse")
    assert ClipDataset(table, "test", long, train=False, flow=drawn)[0].flow is not None
    words = r"23 flow frames take 2[68] frames, and there are 25; .*\(t\.csv, line [23]\)$"
    for train, split in ((False, "test"), (True, "train")):
        dataset = ClipDataset(table, split, long, train=train, flow=drawn, views=views, seed=2)
        with pytest.raises(VideoError, match=words):
            dataset[0]


def test_a_mirrored_label_keeps_pixels_and_flow_together(
    table: VideoTable, drawn: FlowStore, tmp_path: Path
) -> None:
    """`left` without a partner is never mirrored: neither its pixels nor its flow."""
    videos = table.folder / "videos"
    left = write_table(tmp_path, f"{videos}/a,left,train", f"{videos}/b,walk,train")
    flip = CropDraws(SPEC, train=True, flip=True)
    dataset = ClipDataset(left, "train", SPEC, train=True, crops=flip, flow=drawn)
    assert dataset.never_flipped == ["left"]
    for epoch in range(10):
        dataset.set_epoch(epoch)
        fields_of(dataset[0], mirrored=False)
    words, views = "class 'left' tells .*leave out eval.mirrored", ViewPlan(mirrored=True)
    with pytest.raises(RecipeError, match=words):
        ClipDataset(left, "train", SPEC, train=False, flow=drawn, views=views)


def test_draws_without_flow_are_what_they_were(table: VideoTable, drawn: FlowStore) -> None:
    """The distance of snippets is drawn after all else."""
    how = {"train": True, "crops": CropDraws(SPEC, train=True, flip=True), "seed": 5}
    plain = ClipDataset(table, "train", replace(SPEC, flow_length=0), **how)
    flowing = ClipDataset(table, "train", SPEC, flow=drawn, **how)
    for i in range(2):
        assert torch.equal(plain[i].video, flowing[i].video)
        assert plain[i].flow is None


def test_a_model_of_flow_needs_flow(table: VideoTable) -> None:
    words = (
        r"t\.csv: the model takes optical flow, .*vidgraph extract flow, and name it with "
        r"--data\.table\.flow STORE, or .* live$"
    )
    with pytest.raises(DataError, match=words):
        ClipDataset(table, "test", SPEC, train=False)


# ---- stores and flow on the way ------------------------------------------------------------------


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of textures that drift by different amounts, a table, and a store of their
    flow."""
    folder = tmp_path_factory.mktemp("moving")
    rng, rows = np.random.default_rng(0), []
    for seed, name in enumerate(("left.mp4", "right.mp4")):
        small = Image.fromarray(rng.integers(0, 255, (8, 12, 3), dtype=np.uint8))
        texture = np.asarray(small.resize((96, 64), Image.Resampling.BICUBIC))
        step = (2 * seed - 1) * (seed + 1)
        frames = np.stack([np.roll(texture, step * t, axis=1) for t in range(26)])
        write_video(folder / name, frames, fps=10)
        rows.append(f"{name},{'slow' if seed else 'fast'},test")
    write_table(folder, *rows)
    tasks = [Task(folder / name, name) for name in ("left.mp4", "right.mp4")]
    assert extract(FlowJob("dis"), tasks, folder / "store").done == 2
    return folder


def test_flow_on_the_way_equals_the_store(moving: Path) -> None:
    table = load_table(moving / "t.csv")
    stored, live = open_flow(moving / "store"), open_flow("live")
    assert live.is_live
    assert not stored.is_live
    assert live.method == stored.method
    one, other = (
        ClipDataset(table, "test", SPEC, train=False, flow=flow, views=ViewPlan(num_views=2))
        for flow in (stored, live)
    )
    for i in range(4):
        assert torch.equal(one[i].flow, other[i].flow)
        assert torch.equal(one[i].video, other[i].video)


class Motion(nn.Module):
    """An answer that depends on every flow channel and on the pixels."""

    def __init__(self, spec: InputSpec = SPEC) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spec, self.class_names, self.multi_label = spec, ["fast", "slow"], False
        self.layer = nn.Linear(2 * spec.num_stacks * spec.flow_length, 2)

    def forward(self, flow: Tensor, video: Tensor | None = None) -> Tensor:
        # [B, S 2 L]; mirrored views would cancel x
        motion = (flow.float() - 127.5).abs().mean((1, 4, 5)).flatten(1)
        shade = 0 if video is None else video.float().mean((1, 2, 3, 4))[:, None] / 255
        return self.layer(motion / 4) + shade


@pytest.mark.parametrize(
    ("plan", "channels"), [(ViewPlan(), 3), (TEN, 3), (TEN, 0), (replace(TEN, num_views=25), 3)]
)
def test_prediction_equals_evaluation(moving: Path, plan: ViewPlan, channels: int) -> None:
    spec, plan = replace(SPEC, channels=channels), replace(plan, fusion="logits")
    model, table, flow = (Motion(spec), load_table(moving / "t.csv"), open_flow(moving / "store"))
    dataset = ClipDataset(table, "test", spec, train=False, flow=flow, views=plan)
    clips, names = [dataset[i] for i in range(len(dataset))], dataset.class_names
    scores = evaluate(model, clips, class_names=names, fusion="logits", batch_size=7)
    # the videos differ, or the test would say nothing
    assert np.ptp(scores.probabilities[:, 0]) > 0.05
    for predictor in (Predictor(model, plan, "cpu", flow=flow), Predictor(model, plan, "cpu")):
        for row, name in zip(scores.probabilities, scores.names, strict=True):
            found = predictor.predict(name).probabilities.numpy()
            np.testing.assert_allclose(found, row, atol=1e-5)


def test_a_prediction_says_where_its_flow_is_from(moving: Path, tmp_path: Path) -> None:
    model = Motion()
    live = Predictor(model, device="cpu")
    stored = Predictor(model, device="cpu", flow=open_flow(moving / "store"))
    now = "Optical flow was computed now (dis); --flow is faster."
    assert live.predict(moving / "left.mp4").notes == [now]
    assert stored.predict(moving / "left.mp4").notes == []
    noise = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "short.mp4", noise, fps=10)
    repeated = "The video holds 2 flow frames, and a stack takes 4: the last one was repeated."
    assert live.predict(tmp_path / "short.mp4").notes == [now, repeated]
    write_video(tmp_path / "one.mp4", noise[:1], fps=10)
    with pytest.raises(VideoError, match=r"one\.mp4: the video has one frame"):
        live.predict(tmp_path / "one.mp4")


def test_flow_is_computed_as_the_run_was_trained(moving: Path, tmp_path: Path) -> None:
    assert flow_as_trained("rstg_small_sync3", None) == FlowJob()
    method = FlowJob("tvl1", 12.0, 40).method.to_dict()
    write_json(tmp_path / "data.json", {"files": 2, "flow": method})
    assert flow_as_trained(tmp_path, None) == FlowJob("tvl1", 12.0, 40)
    with open_video(moving / "left.mp4") as video:
        reader = flow_as_trained(tmp_path, None).reader(video.path, video)
        assert (reader.height, reader.width, reader.num_flow_frames) == (40, 60, 25)
    with pytest.raises(DataError, match="bound"):
        flow_as_trained(tmp_path, moving / "store")
    images = {"method": "images", "settings": {"bound": 20.0}}
    write_json(tmp_path / "data.json", {"files": 2, "flow": images})
    assert flow_as_trained(tmp_path, None) == FlowJob()
    assert not flow_as_trained(tmp_path, moving / "store").is_live
