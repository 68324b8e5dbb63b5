"""Groups of clips, and splits that keep each group together.

A group is what clips share that could be learnt in place of their classes: a film, a recording, a
person. Clips of one group never stand in two splits that are made here. Which group a clip is of:

1. `--group-by REGEX` on its path, where that is given: the first capture group, else the match.
2. The column `group` of the table. Numbers that run from 0 or 1 without a gap in every class are
   taken as counted anew in each class: group 1 of BabyCrawling is another film than group 1 of
   Lunges, as in UCF101. All else is compared as written: a person or a sequence may have clips of
   every class.
3. Else each video is its own group.

Shapes: n clips.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgraph.data.cells import refuse
from vidgraph.data.table import FOLDER_SPLITS, VideoTable
from vidgraph.errors import DataError, TableError
from vidgraph.util import natural_key

TRAIN, VAL, TEST = 0.70, 0.15, 0.15  # of the groups of each class, where no split is named
VAL_OF_TRAIN = 0.2  # where train and test are named, but no val
MIN_CLIPS, MIN_GROUPS = 10, 3  # of each class; with fewer, splits say little: cross-validation
NUM_FOLDS = 5
_DRAWS = 20


@dataclass(frozen=True)
class Splits:
    """What is trained, validated and tested on.

    Attributes:
        frame: the rows of the table that are used, with their columns and `group` and
            `class_index`; `split` is "fold 1", "fold 2" and so on in cross-validation.
        class_names: in the order of the class indices.
        rounds: the rows of `train`, `test` and, unless there is none, `val` in each training with
            its test, int64. There is one; in cross-validation one per fold, which is its `test`,
            and the next fold is its `val`.
        notes: what was decided that a user should know, one sentence each.
    """

    frame: pd.DataFrame
    class_names: list[str]
    rounds: list[dict[str, Tensor]]
    notes: list[str]


def split_clips(table: VideoTable, group_by: str | None = None, seed: int = 0) -> Splits:
    """The splits that a table or folder names, else those drawn by group; see the module.

    Where train and test are named but no val, the last groups of each class in training, about a
    fifth, are held out. Where no split is named, about 70, 15 and 15 % of the groups of each class
    are drawn, so that each split has clips of each class; with below 10 clips or 3 groups of a
    class, it is grouped cross-validation.

    Args:
        table: of clips with one label each; see `load_table(split_needed=False)`.
        group_by: a regular expression on the path of a clip as the table writes it.
        seed: of what is drawn.

    Raises:
        TableError: the expression is none, or does not match a clip; a group is empty.
        DataError: there are too few classes, clips or groups, or no clips of train or test.
    """
    groups, notes = clip_groups(table, group_by)
    frame = table.frame.assign(group=groups, class_index=table.targets(table.frame))
    counts = frame["label"].value_counts().reindex(list(table.class_names), fill_value=0)
    if len(counts) < 2:
        raise DataError(f"{table.source}: all clips are of class {counts.index[0]!r}; give two")
    if (few := counts[counts < 2]).size:
        has = "only one clip" if few.iloc[0] else "no clip that can be used"
        what = "it takes one to learn from and one to test on"
        raise DataError(f"{table.source}: class {few.index[0]!r} has {has}; {what}")
    if (frame["split"] != "").any():
        frame, more = _named(table, frame)
    else:
        frame, more = _drawn(table, frame, seed)
    frame = frame.reset_index(drop=True)
    return Splits(frame, list(table.class_names), _rounds(frame["split"]), [*notes, *more])


def _rounds(split: pd.Series) -> list[dict[str, Tensor]]:
    rounds, folds = [split], sorted(set(split) - set(FOLDER_SPLITS))
    if folds:
        following = folds[1:] + folds[:1] if len(folds) > 2 else folds
        parts = zip(following, folds, strict=True)  # of two folds, the tested one leaves no other
        rounds = [split.map({val: "val", test: "test"}).fillna("train") for val, test in parts]
    return [
        {
            name: torch.from_numpy(np.flatnonzero(part == name))
            for name in FOLDER_SPLITS
            if (part == name).any()
        }
        for part in rounds
    ]


# ---- groups --------------------------------------------------------------------------------------


def clip_groups(table: VideoTable, group_by: str | None = None) -> tuple[pd.Series, list[str]]:
    """The group of each row, text, and what a user should know of them; see the module.

    Raises:
        TableError: the expression is none, or does not match a clip; a group is empty.
    """
    frame = table.frame
    if group_by is not None:
        return _by_pattern(table, group_by), []
    if "group" not in frame:
        return frame["name"], [
            "each video is taken as a group of its own; if several show the same film or person, "
            "say which with --group-by, or the scores come out too high"
        ]
    groups, rows = frame["group"], pd.Index(frame["row"], name=table.row_word)
    refuse(table.source, groups.set_axis(rows), groups == "", "the group is empty")
    if not numbered_per_class(frame["label"], groups):
        return groups, []
    first = groups.iloc[0]
    return frame["label"] + "/" + groups, [
        f"groups are numbers that begin anew in each class, so that group {first} of one class is "
        f"taken as another than group {first} of the next; if classes share them, name them "
        f"otherwise, such as p{first}"
    ]


def _by_pattern(table: VideoTable, group_by: str) -> pd.Series:
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise TableError(f"--group-by: {group_by!r} is no regular expression ({error})") from error
    found = []
    for name in table.frame["name"]:
        match = pattern.search(name)
        group = match and match[min(1, pattern.groups)]
        if not group:
            raise TableError(f"{table.source}: --group-by {group_by!r} finds no group in {name}")
        found.append(group)
    return pd.Series(found, table.frame.index, dtype=object)


def numbered_per_class(labels: pd.Series, groups: pd.Series) -> bool:
    """Whether groups are numbers that run from 0 or 1 without a gap in every class."""
    if not groups.str.fullmatch("[0-9]{1,9}").all():
        return False
    by_class = groups.astype(int).groupby(labels).agg(["min", "max", "nunique"])
    return bool(
        by_class["min"].isin([0, 1]).all()
        and (by_class["max"] - by_class["min"] + 1 == by_class["nunique"]).all()
    )


# ---- splits --------------------------------------------------------------------------------------


def _named(table: VideoTable, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the named splits, with validation clips."""
    notes, counts = [], frame["split"].value_counts()
    for split in ("train", "test"):
        if split not in counts:
            found = ", ".join(f"{name} ({n})" for name, n in counts.items())
            raise DataError(
                f"{table.source}: has no clips of split {split!r}, only of {found}; splits are "
                "named train, val and test, or not at all"
            )
    if others := counts.drop(list(FOLDER_SPLITS), errors="ignore").to_dict():
        listed = ", ".join(f"{name} ({n})" for name, n in others.items())
        notes.append(f"clips of other splits than train, val and test are not used: {listed}")
    frame = frame[frame["split"].isin(FOLDER_SPLITS)]
    train, rest = frame[frame["split"] == "train"], frame[frame["split"] != "train"]
    if absent := sorted(set(table.class_names) - set(train["label"]), key=natural_key):
        raise DataError(f"{table.source}: class {absent[0]!r} has no clip in training")
    if untested := sorted(
        set(table.class_names) - set(rest.loc[rest["split"] == "test", "label"]), key=natural_key
    ):
        notes.append(f"no test clip is of class {untested[0]!r}")
    if shared := sorted(set(train["group"]) & set(rest["group"]), key=natural_key):
        notes.append(
            f"groups with clips in training and in another split: {len(shared)}, such as "
            f"{shared[0]}; scores come out too high"
        )
    if "val" in counts:
        return frame, notes
    order = sorted(set(train["group"]), key=natural_key)
    held = train.index[held_out(train["label"], train["group"], VAL_OF_TRAIN, order)]
    frame = frame.assign(split=frame["split"].where(~frame.index.isin(held), "val"))
    notes.append(
        f"validation clips are the last groups of each class in training ({len(held)} clips)"
        if len(held)
        else "there are no validation clips: training has a single group of each class"
    )
    return frame, notes


def _drawn(table: VideoTable, frame: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Rows with splits that are drawn by group, or with folds."""
    labels, groups = frame["label"], frame["group"]
    clips, parts = labels.value_counts(), groups.groupby(labels).nunique()
    if (parts < 2).any():
        alone = f"class {parts.idxmin()!r} are of one group; it takes another to test on"
        raise DataError(f"{table.source}: all clips of {alone}")
    if (few := clips.index[(clips < MIN_CLIPS) | (parts[clips.index] < MIN_GROUPS)]).size:
        split, name = None, few[-1]  # the class of fewest clips
        why = f"class {name!r} has only {clips[name]} clips of {parts[name]} groups"
    else:
        split, why = _draw(labels, groups, seed), "no splits by group hold clips of every class"
    if split is not None:
        return frame.assign(split=split), [
            f"splits are drawn by group (seed {seed}): about 70, 15 and 15 % of each class"
        ]
    folds = grouped_folds(labels, groups, NUM_FOLDS, seed)
    return frame.assign(split=[f"fold {fold + 1}" for fold in folds]), [
        f"cross-validation with {folds.max() + 1} folds by group, for {why}: each clip is tested "
        "once, by a model that has seen no clip of its group"
    ]


def held_out(
    labels: pd.Series, groups: pd.Series, share: float, order: Sequence[str], keep: int = 1
) -> NDArray[np.bool_]:
    """Which clips are held out, [n]: whole groups, the last in `order`, about a share of the groups
    of each class and at least one, as far as `keep` of them remain in every class.
    """
    place = {group: i for i, group in enumerate(order)}
    pairs = pd.DataFrame({"label": labels, "group": groups}).drop_duplicates()
    of_class = pairs.groupby("label")["group"].agg(list).to_dict()
    of_group = pairs.groupby("group")["label"].agg(list).to_dict()
    left = {label: len(names) for label, names in of_class.items()}
    held: set[str] = set()
    for label, names in sorted(of_class.items(), key=lambda item: len(item[1])):
        wanted = max(1, round(share * len(names)))
        for name in sorted(names, key=place.__getitem__, reverse=True):
            if len(names) - left[label] >= wanted:
                break
            if name not in held and all(left[other] > keep for other in of_group[name]):
                held.add(name)
                left.update({other: left[other] - 1 for other in of_group[name]})
    return groups.isin(held).to_numpy()


def _draw(labels: pd.Series, groups: pd.Series, seed: int) -> NDArray[np.str_] | None:
    """The split of each clip: of several draws the one whose classes come nearest to their shares;
    None where none has every class in every split.
    """
    rng, names = np.random.default_rng(seed), sorted(set(groups))
    best, least, shares = None, np.inf, [TRAIN, VAL, TEST]
    for _ in range(_DRAWS):
        order = rng.permutation(names).tolist()
        split = np.full(len(labels), "train", dtype="<U5")
        split[held_out(labels, groups, TEST, order, keep=2)] = "test"
        rest = split == "train"
        split[
            np.flatnonzero(rest)[held_out(labels[rest], groups[rest], VAL / (1 - TEST), order)]
        ] = "val"
        counts = pd.crosstab(labels, split, normalize="index")
        found = counts.reindex(columns=list(FOLDER_SPLITS), fill_value=0.0).to_numpy()
        distance = float(np.abs(found - shares).max()) if (found > 0).all() else np.inf
        if distance < least:
            best, least = split, distance
    return best


def grouped_folds(
    labels: pd.Series | NDArray, groups: pd.Series | NDArray, k: int = NUM_FOLDS, seed: int = 0
) -> NDArray[np.int64]:
    """The fold of each clip, [n]: no group in two folds, classes spread evenly. There are k, or as
    many as the class of fewest groups has. With a group per clip, plain stratified folds.

    Raises:
        DataError: no folds keep every class in the training of each.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels, groups = np.asarray(labels), np.asarray(groups)
    k = min(k, int(pd.Series(groups).groupby(labels).nunique().min()))
    folds = np.zeros(len(labels), np.int64)
    for attempt in range(_DRAWS if k > 1 else 0):
        drawn = StratifiedGroupKFold(k, shuffle=True, random_state=seed + 1000 * attempt)
        for fold, (_, rows) in enumerate(drawn.split(folds, labels, groups)):
            folds[rows] = fold
        # Two folds may be away from training, the tested and the validated one.
        if pd.Series(folds).groupby(labels).nunique().min() >= min(k, 3):
            return folds
    raise DataError("clips cannot be cross-validated: some class has too few groups of its own")
