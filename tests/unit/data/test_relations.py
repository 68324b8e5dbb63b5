"""Clips of relations: how the two cut-outs move in each, what is hidden, and what tells nothing."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from commands import files_of
from numpy.typing import NDArray
from PIL import Image

from vidgraph.data.relations import (
    FPS,
    HEIGHT,
    NUM_FRAMES,
    NUM_GROUPS,
    RELATIONS,
    WIDTH,
    Scene,
    centres,
    drawn,
    make_relations,
    relation_clip,
    relations_table,
    scene_of,
)
from vidgraph.errors import DataError
from vidgraph.video.reader import open_video

NUMBERS = range(20)
SWAY = 4.0  # pixels by which the middle of a box moves as its cut-out sways


@functools.cache
def boxes_of(relation: str) -> NDArray[np.float64]:
    """[clips, T, 2, 4] in pixels."""
    return np.stack([relation_clip(relation, number).boxes for number in NUMBERS])


def middles(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def distances(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    actor, other = np.moveaxis(middles(boxes), 2, 0)
    return np.linalg.norm(other - actor, axis=-1)  # [clips, T]


def overlaps(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of the actor's box that lies in the other's, [clips, T]."""
    actor, other = np.moveaxis(boxes, 2, 0)
    shared = np.minimum(actor, other)[..., 2:] - np.maximum(actor, other)[..., :2]
    return shared.clip(0).prod(-1) / (actor[..., 2:] - actor[..., :2]).prod(-1)


@pytest.mark.parametrize(("relation", "sign"), [("approach", -1), ("part", 1)])
def test_approach_closes_the_distance_and_part_opens_it(relation: str, sign: int) -> None:
    boxes = boxes_of(relation)
    change = sign * np.diff(distances(boxes), axis=1)
    assert (change.sum(1) > 30).all()
    assert (change > -SWAY).all()
    assert overlaps(boxes).max() < 0.1


def test_in_stay_nothing_leaves_its_place() -> None:
    boxes = boxes_of("stay")
    assert np.ptp(middles(boxes), axis=1).max() < SWAY
    assert np.ptp(distances(boxes), axis=1).max() < SWAY


def test_follow_moves_both_alike_at_one_distance() -> None:
    boxes = boxes_of("follow")
    moves = middles(boxes)[:, -1] - middles(boxes)[:, 0]  # [clips, 2, 2]
    assert np.abs(moves[:, 0] - moves[:, 1]).max() < SWAY
    assert np.linalg.norm(moves, axis=-1).min() > 25
    assert np.ptp(distances(boxes), axis=1).max() < SWAY
    ahead = middles(boxes)[:, 0, 1] - middles(boxes)[:, 0, 0]
    assert ((ahead * moves[:, 0]).sum(-1) > 0).all()  # the actor is the one behind


def test_push_moves_the_other_only_after_contact() -> None:
    boxes = boxes_of("push")
    gaps = np.abs(np.diff(middles(boxes)[..., 0], axis=2))[..., 0]
    gaps -= (boxes[..., 2] - boxes[..., 0]).mean(2)  # between the sides of the two, [clips, T]
    apart = gaps > SWAY
    moved = np.linalg.norm(middles(boxes)[:, :, 1] - middles(boxes)[:, :1, 1], axis=-1)
    assert (apart.sum(1) >= 6).all()
    assert moved[apart].max() < SWAY
    assert moved[:, -1].min() > 20
    assert gaps[:, -4:].max() < SWAY
    assert overlaps(boxes).max() < 0.15


def test_pass_behind_hides_the_actor_in_the_middle() -> None:
    boxes = boxes_of("pass behind")
    share = overlaps(boxes)
    assert share.max(1).min() > 0.6
    assert share[:, [0, -1]].max() == 0
    sides = np.sign(middles(boxes)[:, :, 0, 0] - middles(boxes)[:, :, 1, 0])
    assert (sides[:, 0] == -sides[:, -1]).all()


def test_the_other_is_drawn_over_the_actor() -> None:
    """Pixels of a red square that passes behind an equal green one."""
    red, green = (Image.new("RGBA", (36, 36), colour) for colour in ("red", "lime"))
    scene = Scene((red, green), Image.new("RGB", (WIDTH, HEIGHT), "grey"), (1.0, 0.0))
    draw = np.random.default_rng(0)
    clip = drawn(scene, centres("pass behind", scene, draw), draw)
    seen = [
        ((clip.frames[..., c] > 200) & (clip.frames[..., 1 - c] < 50)).sum((1, 2)) for c in (0, 1)
    ]
    assert seen[0].min() < 0.25 * seen[0][0]
    assert seen[0][-1] > 0.95 * seen[0][0]
    assert seen[1].min() > 0.95 * seen[1].max()


def test_all_stays_in_the_frame_before_a_still_background() -> None:
    for relation in RELATIONS:
        boxes = boxes_of(relation)
        assert boxes.min() > 0
        assert (boxes[..., 2:] < (WIDTH, HEIGHT)).all()
        clip = relation_clip(relation, 3)
        assert clip.frames.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
        still = np.ones((HEIGHT, WIDTH), bool)
        for x0, y0, x1, y1 in clip.boxes.reshape(-1, 4).astype(int):
            still[y0:y1, x0:x1] = False
        assert np.ptp(clip.frames, axis=0)[still].max() == 0
        assert np.ptp(clip.frames, axis=0).max() > 50


def test_every_class_has_the_same_scenes_and_directions() -> None:
    """Each cut-out acts in two of ten scenes, once to the left and once to the right."""
    table = relations_table(10)
    assert (table.groupby(["label", "group"]).size() == 1).all()
    assert table["group"].nunique() == 10
    left = [scene_of(number).direction[0] < 0 for number in range(10)]
    assert sum(left) == 5
    sizes = np.array([[cutout.size for cutout in scene_of(n).cutouts] for n in NUMBERS])
    actor, other = np.sqrt(sizes.prod(-1)).T
    assert 0.3 < (actor > other).mean() < 0.7
    for relation in ("approach", "follow", "push", "pass behind"):
        moves = np.diff(middles(boxes_of(relation)[:10, [0, -1], 0, :]), axis=1)[:, 0, 0]
        assert (moves < -10).sum() == 5
        assert (moves > 10).sum() == 5


def test_no_group_stands_in_two_splits() -> None:
    table = relations_table(2 * NUM_GROUPS + 10, seed=3)
    assert (table.groupby("group")["split"].nunique() == 1).all()
    assert table["group"].nunique() == NUM_GROUPS
    shares = table.groupby(["label", "split"]).size().unstack()
    assert (shares.nunique() == 1).all()  # every class alike
    assert relations_table(10)["split"].value_counts().to_dict() == {
        "train": 36,
        "val": 12,
        "test": 12,
    }
    assert set(relations_table(3)["split"]) == {"train", "val", "test"}


def test_the_files_are_a_function_of_the_seed(tmp_path: Path) -> None:
    seen = []
    tables = [
        make_relations(tmp_path / name, 3, seed, lambda done, total: seen.append((done, total)))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert seen[17] == (18, 18)
    a, b, c = (files_of(table.parent) for table in tables)
    assert a == b
    assert a.keys() == c.keys()
    assert not any(a[name] == c[name] for name in a if name.endswith(".mp4"))
    video = open_video(tables[0].parent / "pass behind" / "000.mp4")
    assert (video.num_frames, video.height, video.width) == (NUM_FRAMES, HEIGHT, WIDTH)
    assert video.timestamps_seconds[-1] == pytest.approx((NUM_FRAMES - 1) / FPS)
    with pytest.raises(DataError, match="begun with these settings; choose a new"):
        make_relations(tmp_path / "a", 3, seed=1)
    # An interrupted run is continued, a finished one is left as it is.
    victim = tables[0].parent / "push" / "001.mp4"
    victim.unlink()
    times = {file: file.stat().st_mtime_ns for file in tables[0].parent.rglob("*.mp4")}
    assert make_relations(tmp_path / "a", 3) == tables[0]
    assert files_of(tmp_path / "a") == a
    assert all(file.stat().st_mtime_ns == time for file, time in times.items())


def test_other_content_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(DataError, match=r"no relations\.json in it .* choose a new"):
        make_relations(tmp_path)
    with pytest.raises(DataError, match="2 clips per class cannot fill three splits"):
        make_relations(tmp_path / "new", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
