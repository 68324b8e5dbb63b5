"""Small label files of every data set that has official ones, written as theirs are."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from vidgraph.data.official import charades, hmdb51, kinetics, something, ucf101

READERS = {
    "charades": charades.read_labels,
    "hmdb51": hmdb51.read_labels,
    "kinetics": kinetics.read_labels,
    "something": something.read_labels,
    "ucf101": ucf101.read_labels,
}
UCF = [
    "Archery/v_Archery_g01_c01",
    "Archery/v_Archery_g08_c02",
    "Archery/v_Archery_g22_c01",
    "Biking/v_Biking_g02_c01",
    "Biking/v_Biking_g09_c01",
    "Biking/v_Biking_g25_c03",
]
UCF_FILES = {  # two of the three splits, as the official files are: numbers in train lists only
    "trainlist01.txt": "".join(f"{UCF[i]}.avi {1 + (i > 2)}\n" for i in (1, 2, 4, 5)),
    "testlist01.txt": f"{UCF[0]}.avi\n{UCF[3]}.avi\n",
    "trainlist02.txt": "".join(f"{UCF[i]}.avi {1 + (i > 2)}\r\n" for i in (0, 2, 3, 5)),
    "testlist02.txt": f"{UCF[1]}.avi\n{UCF[4]}.avi\n\n",
}
WAVE = [
    "21_wave_u_nm_np1_fr_goo_5",
    "50_FIRST_DATES_wave_f_cm_np1_fr_med_0",
    "(Rad)Schlag,_die!_wave_f_cm_np1_le_med_0",
]
SHAKE = "21_shake_hands_u_nm_np1_fr_goo_1"
HMDB_FILES = {
    "wave_test_split1.txt": f"{WAVE[0]}.avi 1 \n{WAVE[1]}.avi 2 \n{WAVE[2]}.avi 0 \n",
    "wave_test_split2.txt": f"{WAVE[0]}.avi 2 \n{WAVE[1]}.avi 1 \n{WAVE[2]}.avi 1 \n",
    "shake_hands_test_split1.txt": f"{SHAKE}.avi 1\n",
    "shake_hands_test_split2.txt": f"{SHAKE}.avi 0\n",
    "class_list.txt": "shake_hands\nwave\n",
}
CLIP_HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
KINETICS_FILES = {
    "train.csv": CLIP_HEADER + "abseiling,-3B32lodo2M,59,69,train,0\n"
    '"air drumming",0gR5FP7HpZ4,10,20,train,0\nabseiling,gone,0,10,train,0\n',
    "k-400_validate.csv": "label,youtube_id,time_start,time_end\nair drumming,xyz_-12,7.0,17.0\n",
    "test.csv": "youtube_id,time_start,time_end,split\nnolabel,1,11,test\n",
}
MOVES = ["Pushing something from left to right", "Holding something", "Putting something, alone"]
V1_FILES = {
    "something-something-v1-labels.csv": "\n".join(MOVES) + "\n",
    "something-something-v1-train.csv": f"100218;{MOVES[1]}\n24413;{MOVES[0]}\n7;{MOVES[2]}\n",
    "something-something-v1-validation.csv": f"55;{MOVES[0]}\n56;{MOVES[1]}\n",
    "something-something-v1-test.csv": "1\n2\n",
}
V2_FILES = {
    "labels.json": json.dumps({name: str(k) for k, name in enumerate(MOVES)}),
    "train.json": json.dumps(
        [
            {"id": "1", "label": "a cup", "template": "Pushing [something] from left to right"},
            {"id": "2", "label": "a cup", "template": "Holding [something]"},
        ]
    ),
    "validation.json": json.dumps([{"id": 4, "template": "Putting [something], alone"}]),
    "test-answers.csv": f"9;{MOVES[0]}\n",
}
ACTIONS = [
    "c000 Holding some clothes",
    "c001 Putting clothes somewhere",
    "c002 Taking a phone/camera, or a bag",
    "c010 Smiling",
]
PEOPLE = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
CHARADES_FILES = {  # quoted texts with commas and line breaks, empty actions, ends after the video
    "Charades_v1_classes.txt": "\n".join(ACTIONS) + "\n",
    "Charades_v1_train.csv": PEOPLE
    + 'AAAAA,S1,Kitchen,6,7,Yes,"A person, cooking.",food,"First.;Then, more.",c010 11.90 21.20;'
    "c000 0.00 12.60;c000 15.00 16.00,30.5\n"
    'BBBBB,S2,Bedroom,5,7,Yes,"Two\nlines",,,"",12.0\n'
    "CCCCC,S1,Garage,5,7,No,x,,,c001 3.00 99.90;c010 10.00 11.00;c002 4.00 4.00,9.87\n",
    "Charades_v1_test.csv": PEOPLE + "DDDDD,S3,Kitchen,6,7,Yes,x,,,c002 1.00 2.00,5.0\n",
}
FILES = {
    "charades": CHARADES_FILES,
    "hmdb51": HMDB_FILES,
    "kinetics": KINETICS_FILES,
    "something": V1_FILES,
    "ucf101": UCF_FILES,
}


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """The label files of a data set."""
    (folder / "labels").mkdir(parents=True)
    for name, text in files.items():
        (folder / "labels" / name).write_text(text, encoding="utf-8", newline="")
    return folder / "labels"


def place(folder: Path, *videos: str) -> Path:
    """Empty video files, or folders of frames where there is no suffix."""
    for video in videos:
        path = folder / "videos" / video
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if Path(video).suffix else path.mkdir()
    return folder / "videos"


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))
