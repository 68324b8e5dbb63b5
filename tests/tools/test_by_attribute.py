"""Scores by attributes of the classes: hand-computed groups, plain loops over clips and resamples,
and what is refused.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from pictures import near
from PIL import Image
from sklearn.metrics import average_precision_score

from by_attribute import (
    GroupScore,
    attribute_chart,
    group_classes,
    main,
    read_attributes,
    score_groups,
    to_text,
)
from vidgraph.errors import DataError
from vidgraph.evaluation.metrics import Scores, paired_bootstrap, resamples, save_scores

CHARADES = ["c000 Holding some clothes", "c001 Putting clothes", "c002 Running", "c003 Smiling"]


def table(folder: Path, text: str) -> Path:
    (folder / "attributes.csv").write_text(text)
    return folder / "attributes.csv"


def groups_of(
    folder: Path, text: str, names: list[str], wanted: list[str] | None = None
) -> dict[str, dict[str, list[int]]]:
    """Classes by attribute and value."""
    found: dict[str, dict[str, list[int]]] = {}
    for group in group_classes(read_attributes(table(folder, text), wanted), names):
        classes = np.flatnonzero(group.classes).tolist()
        found.setdefault(group.attribute, {})[group.value] = classes
    return found


def scored(probabilities: np.ndarray, labels: np.ndarray, skipped: int = 0) -> Scores:
    names = [f"{i}.mp4" for i in range(len(labels))]
    classes = [f"class {k}" for k in range(probabilities.shape[1])]
    return Scores(probabilities, labels, classes, names, np.arange(len(labels)), skipped)


def test_values_become_groups_of_classes(tmp_path: Path) -> None:
    """The form of Sigurdsson et al.'s table: classes by their code, 0 and 1, measured numbers; and
    values in words."""
    text = (
        "class,Seq,PoseVar,#Verbs,Place\nc000,1,0.70,20,hand\nc002,0,0.80,20,\nc003,0,0.75,7,f"
        "ace\nc001 Putting clothes,1,0.60,3,hand\n"
    )
    seq, place = {"no": [2, 3], "yes": [0, 1]}, {"face": [3], "hand": [0, 1]}
    assert groups_of(tmp_path, text, CHARADES) == {
        "Seq": seq,
        "PoseVar": {"0.60": [1], "0.70": [0], "0.75": [3], "0.80": [2]},
        "#Verbs": {"3": [1], "7": [3], "20": [0, 2]},
        "Place": place,
    }
    some = groups_of(tmp_path, text, CHARADES, ["Place", "Seq"])
    assert list(some.items()) == [("Place", place), ("Seq", seq)]
    assert [*some["Place"], *some["Seq"]] == ["face", "hand", "no", "yes"]


def test_numbers_with_many_values_become_three_groups(tmp_path: Path) -> None:
    names = [f"class {k}" for k in range(9)]
    values = [0.9, 0.1, 0.5, 0.2, 0.8, 0.4, 0.3, 0.7, 0.6]
    lines = [f"{name},{value}" for name, value in zip(names, values, strict=True)]
    thirds = {"0.1 to 0.3": [1, 3, 6], "0.4 to 0.6": [2, 5, 8], "0.7 to 0.9": [0, 4, 7]}
    text = "\n".join(["class,speed", *lines])
    assert groups_of(tmp_path, text, names) == {"speed": thirds}


def test_accuracy_of_groups_worked_out_by_hand(tmp_path: Path) -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    first = scored(np.eye(4)[[0, 0, 1, 1, 1, 3]], labels)  # right on clips 0, 1, 3, 4
    second = scored(np.eye(4)[[0, 1, 1, 0, 1, 2]], labels)  # right on clips 0, 4, 5
    path = table(tmp_path, "class,big\nclass 0,1\nclass 1,0\nclass 2,0\nclass 3,1\n")
    rows = score_groups(group_classes(read_attributes(path), first.class_names), [first, second])
    assert [(row.attribute, row.value, row.num_classes, row.num_clips) for row in rows] == [
        ("all", "", 3, 6),  # class 3 has no clip
        ("big", "no", 2, 3),
        ("big", "yes", 1, 3),
    ]
    scores = np.array([[4 / 6, 3 / 6], [2 / 3, 2 / 3], [2 / 3, 1 / 3]]) * 100
    assert np.array([row.scores for row in rows]) == pytest.approx(scores)
    assert [row.difference for row in rows] == pytest.approx(scores[:, 0] - scores[:, 1])
    assert rows[0].scores == pytest.approx((first.top1, second.top1))
    low, high = rows[1].difference_ci95 or (0, 0)
    line = to_text(rows, ["graph", "plain"]).splitlines()[2]
    assert line.split() == f"big no 2 3 66.67 66.67 +0.00 {low:+.2f} to {high:+.2f}".split()


def test_map_of_groups_equals_sklearn_and_its_intervals_a_plain_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 5)) < 0.3).astype(np.float32)
    labels[:, 4] = 0  # a class without a clip: left out of its group
    labels[~labels.any(1), 0] = 1
    one, two = np.clip(labels * 0.3 + rng.random((60, 5)), 0, 1), rng.random((60, 5))
    first, second = scored(one, labels), scored(two, labels)
    path = table(tmp_path, "class,seq\nclass 0,1\nclass 1,1\nclass 2,0\nclass 3,0\nclass 4,0\n")
    groups = group_classes(read_attributes(path), first.class_names)
    rows = score_groups(groups, [first, second], num_resamples=100, seed=3)
    assert [(row.value, row.num_classes, row.num_clips) for row in rows] == [
        ("", 4, 60),
        ("no", 2, int(labels[:, 2:4].any(1).sum())),
        ("yes", 2, int(labels[:, :2].any(1).sum())),
    ]
    assert rows[0].scores == (pytest.approx(first.map), pytest.approx(second.map))
    counts = np.concatenate(list(resamples(60, 100, 3)))

    def mean_precision(p: np.ndarray, classes: list[int], weights: np.ndarray) -> float:
        present = [k for k in classes if (labels[:, k] * weights).sum() > 0]
        each = [
            average_precision_score(labels[:, k], p[:, k], sample_weight=weights) for k in present
        ]
        return 100 * float(np.mean(each))

    for row, classes in zip(rows, ([0, 1, 2, 3], [2, 3], [0, 1]), strict=True):
        expected = [mean_precision(p, classes, np.ones(60)) for p in (one, two)]
        assert row.scores == pytest.approx(tuple(expected))
        drawn = [[mean_precision(p, classes, weights) for p in (one, two)] for weights in counts]
        interval = np.percentile(np.subtract(*np.transpose(drawn)), [2.5, 97.5])
        assert row.difference_ci95 == pytest.approx(tuple(interval), abs=1e-6)


def test_the_same_clips_are_drawn_for_both_models(tmp_path: Path) -> None:
    """So that a small but steady gain is seen that the single intervals hide."""
    rng = np.random.default_rng(1)
    labels = rng.integers(4, size=600)
    worse = rng.random(600) < 0.7
    better = worse | (rng.random(600) < 0.1)
    first, second = (
        scored(np.eye(4)[np.where(right, labels, (labels + 1) % 4)], labels)
        for right in (better, worse)
    )
    (row,) = score_groups([], [first, second])
    assert row.difference == pytest.approx(100 * (better.mean() - worse.mean()))
    assert row.difference_ci95[0] > 0
    assert row.ci95[0][0] < row.ci95[1][1]
    paired = paired_bootstrap(better, worse)
    assert row.difference_ci95 == pytest.approx(paired.ci95, abs=0.6)
    (alone,) = score_groups([], [first])
    assert (alone.difference, alone.difference_ci95, alone.scores) == (None, None, row.scores[:1])


def test_skipped_clips_count_as_wrong(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(3, size=30)
    whole, cut = (
        scored(rng.permuted(np.eye(3)[labels], axis=0), labels, skipped) for skipped in (0, 10)
    )
    (row,) = score_groups([], [cut])
    assert row.scores == (pytest.approx(cut.top1),)
    (row,) = score_groups([], [whole])
    assert row.scores == (pytest.approx(whole.top1),)


def test_other_clips_or_classes_are_refused() -> None:
    labels = np.array([0, 1, 1])
    first = scored(np.eye(2)[labels], labels)
    for other, message in (
        (scored(np.eye(2)[labels[:2]], labels[:2]), r"different clips \(3 and 2\)"),
        (scored(np.eye(2)[1 - labels], 1 - labels), r"different clips \(3 and 3\)"),
        (scored(np.eye(3)[labels], labels), r"different classes \(2 and 3\)"),
    ):
        with pytest.raises(DataError, match=message):
            score_groups([], [first, other])


@pytest.mark.parametrize(
    ("text", "wanted", "message"),
    [
        ("class,Seq\nc0002,1\n", None, "not among the 4 that were scored; did you mean 'c002'?"),
        ("class,Seq\nc000,1\nc000 Holding some clothes,0\n", None, "clothes' is listed twice"),
        ("class,Seq\nc000,1\n", ["Sq"], "attributes.csv: no attribute 'Sq'; did you mean 'Seq'?"),
        ("clas,Seq\nc000,1\n", None, "attributes.csv: needs a column class"),
        ("class\nc000\n", None, "attributes.csv: needs a column class"),
        ("class,Seq\nc000,1,2\nc001,1,2,3\n", None, "attributes.csv: cannot be read as CSV"),
        ("", None, "attributes.csv: cannot be read as CSV"),
        (None, None, "attributes.csv: cannot be read as CSV"),
    ],
)
def test_broken_tables(
    tmp_path: Path, text: str | None, wanted: list[str] | None, message: str
) -> None:
    if text is not None:
        table(tmp_path, text)
    with pytest.raises(DataError) as caught:
        group_classes(read_attributes(tmp_path / "attributes.csv", wanted), CHARADES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def group(attribute: str, value: str, scores: tuple[float, ...]) -> GroupScore:
    ci95 = tuple((score - 2, score + 2) for score in scores)
    return GroupScore(attribute, value, 3, 9, scores, ci95, None, None)


def test_the_chart_has_a_line_per_model_in_a_panel_per_attribute() -> None:
    rows = [
        group("all", "", (50.0, 50.0)),
        group("Sequence?", "no", (30.0, 30.0)),
        group("Sequence?", "yes", (60.0, 31.0)),
        group("Object?", "no", (90.0, 31.0)),
        group("Object?", "yes", (60.0, 30.0)),
    ]
    png = attribute_chart(rows, ["graph", "plain"], "mAP")
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    below_legend, middle = picture[picture.shape[0] // 6 :], picture.shape[1] // 2
    blue, orange = (near(below_legend, colour, 12) for colour in ("#0072B2", "#D55E00"))
    # Mean row of the first and last column of each model in each panel; rows count downwards.
    ends = []
    for half in (blue[:, :middle], blue[:, middle:], orange[:, :middle], orange[:, middle:]):
        columns = np.nonzero(half.any(0))[0]
        outer = columns.min(), columns.max()
        ends.append([float(np.nonzero(half[:, column])[0].mean()) for column in outer])
    assert ends[0][0] > ends[0][1] + 20  # rises
    assert ends[1][0] < ends[1][1] - 20  # falls
    assert all(abs(first - last) < 15 for first, last in ends[2:])  # stays
    assert ends[1][0] < ends[0][1] < ends[2][0]  # 90 above 60 above 30 on one scale


def test_files_of_scores_are_compared_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    for name, guesses in (("graph", [0, 0, 1, 1, 1, 3]), ("plain", [0, 1, 1, 0, 1, 2])):
        save_scores(tmp_path / f"{name}.npz", scored(np.eye(4)[guesses], labels))
    path = table(tmp_path, "class,big\nclass 0,1\nclass 1,0\nclass 2,0\nclass 3,1\n")
    both = [str(tmp_path / "graph.npz"), str(tmp_path / "plain.npz")]
    by, chart = ["--by", str(path)], ["--chart", str(tmp_path / "errors.png")]
    assert main([*both, *by, *chart]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:6] == ["attribute", "value", "classes", "clips", "graph", "plain"]
    assert lines[3].split()[:7] == ["big", "yes", "1", "3", "66.67", "33.33", "+33.33"]
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
    assert main([both[0], "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["attribute"], row["scores"], row["difference"]) == ("all", [66.667], None)
    for words, message in (
        (chart, "--attributes and --chart need --by FILE.csv"),
        ([*by, "--attributes", "bog"], "no attribute 'bog'; did you mean 'big'?"),
        (["--chart", both[0], *by], "is read here, and would be overwritten"),
        (["--charts", "x.png"], "unrecognized arguments: --charts x.png"),
    ):
        assert main([*both, *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
