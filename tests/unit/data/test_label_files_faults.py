"""Label files of another form, or none: one line each, and no table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from official_files import CLIP_HEADER, FILES, READERS, UCF, UCF_FILES, V2_FILES, place, write

from vidgraph.data.label_files import make_table
from vidgraph.data.official import charades, something, ucf101
from vidgraph.errors import DataError, VidgraphError

TRAIN, V1_TRAIN = "train.csv", "something-something-v1-train.csv"
TEST = "Charades_v1_test.csv"
BAD_FILES = [
    ("ucf101", "trainlist02.txt", "v_A.avi 1\n", "02.txt, line 1: 'v_A.avi 1' is not of the form"),
    ("ucf101", "testlist01.txt", f"{UCF[1]}.avi\n", "v_Archery_g08_c02 is listed a second time in"),
    ("hmdb51", "wave_test_split1.txt", "a.avi 3\n", "line 1: 'a.avi 3' is not of the form NAME"),
    ("hmdb51", "wave_test_split3.txt", "", "lacks shake_hands_test_split3.txt; other classes have"),
    ("kinetics", TRAIN, "label,youtube\n", "no column 'youtube_id'; did you mean 'youtube'?"),
    ("kinetics", TRAIN, CLIP_HEADER + "run,a,x,1,,\n", "line 2: time_start is 'x', which is not a"),
    ("kinetics", TRAIN, CLIP_HEADER + ",a,0,1,,\n", "train.csv, line 2: the label is empty"),
    ("kinetics", "k-train.csv", CLIP_HEADER, "several lists of train (k-train.csv, train.csv)"),
    ("something", V1_TRAIN, "7,Holding\n", "line 1: '7,Holding' is not of the form ID;CLASS"),
    ("something", V1_TRAIN, "7;Holdin something\n", "did you mean 'Holding something'?"),
    ("something", "labels.json", "{}", "holds 2 files named labels.csv (v1) or labels.json (v2)"),
    ("charades", TEST, "id,actions\nA,c099 1 2\n", "line 2: label 'c099' is not among the 4 class"),
    ("charades", TEST, "id,actions\nA,c000 1\n", "action 'c000 1' is not of the form c092 11.90 "),
    ("charades", TEST, "id,actions,length\nA,,long\n", "line 2: length is 'long', which is not a"),
    ("charades", charades.CLASSES, "c000 A\nB\n", "line 2: 'B' is not of the form c008 Opening a"),
]


@pytest.mark.parametrize(("dataset", "file", "text", "message"), BAD_FILES)
def test_files_of_another_form_are_one_line(
    tmp_path: Path, dataset: str, file: str, text: str, message: str
) -> None:
    labels = write(tmp_path, FILES[dataset] | {file: text})
    with pytest.raises(VidgraphError) as caught:
        make_table(READERS[dataset](labels), tmp_path, tmp_path / "t.csv")
    assert message in str(caught.value)
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train.json": V2_FILES["train.json"][:-30]}, "train.json: is not JSON"),
        (
            {"train.json": V2_FILES["train.json"].replace("Holding [", "Hiding [")},
            "train.json, video 2: class 'Hiding something' is not among the 3 of labels.json",
        ),
    ],
)
def test_bad_json_is_one_line(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    with pytest.raises(VidgraphError) as caught:
        something.read_labels(write(tmp_path, V2_FILES | changed))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "missing", "message"),
    [
        ("ucf101", "trainlist0?.txt", "holds no trainlist01.txt; give the folder of the official"),
        ("hmdb51", "*_split?.txt", "holds no file such as wave_test_split1.txt; give the folder"),
        ("kinetics", "*.csv", "holds no train.csv with labels; give the folder"),
        ("something", "*train.csv", "holds no files named train.csv (v1) or train.json (v2)"),
        ("charades", "Charades_v1_test.csv", "Charades_v1_test.csv: there is no such file"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, dataset: str, missing: str, message: str) -> None:
    labels = write(tmp_path, FILES[dataset])
    for path in labels.glob(missing):
        path.unlink()
    with pytest.raises(VidgraphError) as caught:
        READERS[dataset](labels)
    assert message in str(caught.value)


def test_bad_arguments_are_one_line(tmp_path: Path) -> None:
    labelled = ucf101.read_labels(write(tmp_path, UCF_FILES))
    videos = place(tmp_path, f"{UCF[0]}.avi")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"videos": tmp_path / "empty"}, r"empty: holds none of the 6 videos; .*v_Archery_g01_c01"),
        ({"videos": tmp_path / "none"}, r"none: there is no such folder; give the folder of the"),
        ({"out": tmp_path / "t.txt"}, r"t\.txt: the table is written as \.csv; name it so"),
        ({"hold_out": 1.0}, "hold-out must be a share from 0 to below 1, got 1.0"),
    ]
    for changed, message in cases:
        with pytest.raises(DataError, match=message):
            make_table(labelled, **{"videos": videos, "out": tmp_path / "t.csv", **changed})
