"""The page that training on one's own clips ends with: it says what it was given, stands alone, and
its cells open their clips in a browser.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import CHROMIUM, Browser
from pages import Page
from PIL import Image

from vidgraph.models.grid import adjacency, node_boxes, node_names
from vidgraph.records import Explanation, Prediction
from vidgraph.visualize import clips_report
from vidgraph.visualize.clips_report import (
    ClipsReport,
    HeadRow,
    LearningCurve,
    NearDuplicates,
    ScoredClip,
    Suspect,
    drawn_clip,
    write_clips_report,
)
from vidgraph.visualize.thumbnails import thumbnail

EVIL = "<script>alert(1)</script>"
CLASSES = ["walk", EVIL, "a & b"]
# Clips of each true class (row) that were taken for each class (column).
CONFUSION = np.array([[5, 1, 0], [4, 3, 0], [0, 0, 0]])


def film(seed: int = 0, side: int = 32) -> np.ndarray:
    """A square that moves over noise, uint8 [6, side, side + 8, 3]."""
    frames = np.random.default_rng(seed).integers(0, 90, (6, side, side + 8, 3), dtype=np.uint8)
    for t in range(6):
        frames[t, 8:16, 2 + 5 * t : 10 + 5 * t] = 255
    return frames


def drawing(video: str) -> clips_report.DrawnClip:
    linked, boxes = adjacency((2, 1)), node_boxes((2, 1)).expand(6, -1, -1)
    torch.manual_seed(0)
    attention = torch.randn(2, 6, 5, 5).masked_fill(~linked, -1e9).softmax(-1)
    explanation = Explanation(boxes, linked, attention, node_names((2, 1)))
    probabilities = torch.tensor([0.1, 0.7, 0.2])
    answer = Prediction(video, CLASSES, probabilities, [0, 3, 6, 9, 12, 15], explanation)
    drawn = drawn_clip(answer, film(), "walk")
    assert drawn is not None
    return drawn


def report() -> ClipsReport:
    clips = []
    for i, j in np.argwhere(CONFUSION).tolist():
        for k in range(CONFUSION[i, j]):
            video = f"test/{EVIL}_{i}{j}{k}.mp4"
            clips.append(ScoredClip(video, i, j, 0.5 + 0.1 * k, film(len(clips))))
    return ClipsReport(
        title=f"Clips of {EVIL}",
        lead="Three heads were trained in 9 s.",
        scored_on="13 test clips of 7 films",
        clusters="film",
        class_names=CLASSES,
        heads=[
            HeadRow("RSTG", "graph", 70.0, 61.5, (40.0, 80.0), 71, 2_000, is_chosen=True),
            HeadRow("mean + linear", "baseline", 60.0, 53.8, (30.0, 75.0), 2, 1_000),
        ],
        clips=clips,
        baseline_recall=[100 * 4 / 6, 100 * 3 / 7, 0],
        suspects=[Suspect(f"train/{EVIL}.mp4", 0, 1, 0.93, film(50))],
        duplicates=[NearDuplicates(("a.mp4", EVIL), ("train", "test"), 0.9876, (film(51), None))],
        curves=[LearningCurve("RSTG", [1, 2, 3], [2.0, 1.0, 0.5], [0.0, 100.0, 50.0])],
        calibration_error=(12.3, 4.5),
        skipped=[(f"{EVIL}.avi", "holds no frames")],
        drawings=[drawing(f"test/{EVIL}.mp4")],
        drawn_by="RSTG",
        usage=[("Recognise a clip", "vidgraph predict CLIP --weights runs/<clips>")],
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "report.html"
    write_clips_report(path, report())
    return path


def written(folder: Path, given: ClipsReport) -> tuple[str, Page]:
    write_clips_report(folder / "report.html", given)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def images(page: Page) -> list[tuple[dict[str, str | None], Image.Image]]:
    found = []
    for tag, attributes in page.tags:
        if tag == "img":
            head, data = (attributes["src"] or "").split(",", 1)
            assert head == "data:image/webp;base64"
            found.append((attributes, Image.open(io.BytesIO(base64.b64decode(data)))))
    return found


def test_the_page_says_what_it_was_given(path: Path):
    words = " ".join(Page(path.read_text(encoding="utf-8")).words.split())
    for expected in (
        "61.5 % of 13 test clips of 7 films are recognised (95 % interval 40.0 to 80.0 %)",
        "The plainest baseline, mean + linear, has 53.8 %",
        "clustered by film; the dotted line is guessing, 33.3 %",
        "off by 4.5 percentage points on average",
        "by 12.3",
        "graph, 2,000 parameters, 71 s",
        f"walk taken for {EVIL}: 1 of 6",
        f"{EVIL}? 93 % labelled walk",
        "cosine 0.988",
        "validation 100.0 % at epoch 2",
        "training loss 2.00 to 0.50",
        f"{EVIL}.avi holds no frames",
        f"{EVIL}, 70 % test/{EVIL}.mp4, labelled walk",
        "vidgraph predict CLIP --weights runs/<clips>",
    ):
        assert expected in words
    assert words.index("mean + linear baseline") < words.index("RSTG the model graph")


def test_bars_stand_where_their_numbers_are(path: Path):
    text = path.read_text(encoding="utf-8")
    bands = re.findall(r'class="band" style="left: ([\d.]+)%; width: ([\d.]+)%', text)
    assert [tuple(map(float, band)) for band in bands] == [(30, 45), (40, 40)]
    recalls = [float(r) for r in re.findall(r'class="fill" style="width: ([\d.]+)%', text)]
    assert recalls == pytest.approx([100 * 5 / 6, 100 * 3 / 7, 0], abs=0.01)
    accuracy, loss = re.findall(r'<polyline points="([^"]+)"', text)
    assert accuracy == "0.0,100.0 50.0,0.0 100.0,50.0"
    assert loss == "0.0,0.0 50.0,50.0 100.0,75.0"


def test_each_cell_holds_its_clips(path: Path):
    text = path.read_text(encoding="utf-8")
    cells = re.findall(
        r'aria-controls="cell-(\d)-(\d)"\s+class=.*?>(\d+)</button>', text, re.DOTALL
    )
    found = np.zeros_like(CONFUSION)
    for i, j, count in cells:
        found[int(i), int(j)] = int(count)
    assert np.array_equal(found, CONFUSION)
    panels = re.findall(r'id="cell-(\d)-(\d)"(.*?)</section>', text, re.DOTALL)
    assert [panel.count("<figure>") for *_, panel in panels] == [5, 1, 4, 3]
    for i, j, panel in panels:
        assert f"_{i}{j}0.mp4" in panel


def test_mistakes_are_the_most_confident_and_few_of_a_kind(path: Path):
    words = Page(path.read_text(encoding="utf-8")).words
    part = words.partition("Most confident mistakes")[2].partition("Your data")[0]
    # Of the four clips of class 1 taken for class 0, the three surest; then the other kind.
    assert re.findall(r"_(\d\d\d)\.mp4", part) == ["103", "102", "101", "010"]
    assert "And 1 more mistakes" in part


def test_the_page_stands_alone_and_escapes_names(path: Path):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1
    assert "alert(1)</script>" not in text
    assert not {*names} & {"link", "iframe", "object"}
    assert not re.search(r"https?:|url\(|@import|src=\"(?!data:)", text)
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len({*identifiers})
    for _, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes)
        assert attributes.get("aria-controls", identifiers[0]) in identifiers
    for attributes, image in images(page):
        if attributes.get("class") == "moving":
            assert (image.n_frames, attributes["alt"]) == (6, "")
        else:
            assert getattr(image, "n_frames", 1) == 1
            assert re.match("A frame of |The graph over ", attributes["alt"] or "")


def test_there_is_a_bound_on_thumbnails_and_sure_right_ones_lose_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text, page = written(tmp_path, replace(report(), drawings=()))
    pictures = [attributes["src"] or "" for attributes, _ in images(page)]
    # Two pictures each of 13 clips, 1 suspect, 1 of a pair, and 4 mistakes that are shown again.
    assert len(pictures) == 2 * (13 + 1 + 1 + 4)
    monkeypatch.setattr(clips_report, "_MOST_BYTES", sum(map(len, pictures)) // 2)
    less, page = written(tmp_path, replace(report(), drawings=()))
    assert len(less) < len(text)
    with_picture = set(re.findall(r'aria-label="Play [^"]*_(\d\d\d)\.mp4"', less))
    assert {"010", "100", "101", "102", "103"} <= with_picture
    assert {"004", "112"} & with_picture == set()
    assert "_004.mp4" in page.words


def test_three_hundred_clips_stay_below_12_megabytes(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (6, 112, 150, 3), dtype=np.uint8)
    clips = [ScoredClip(f"{n}.mp4", 0, n % 3, n / 300, noise) for n in range(300)]
    text, page = written(tmp_path, replace(report(), clips=clips))
    assert 8e6 < len(text) < 12e6
    assert len(images(page)) > 100


def test_a_page_with_nothing_to_complain_of(tmp_path: Path):
    given = report()
    right = [clip for clip in given.clips if clip.true == clip.predicted]
    best = [replace(head, is_chosen=head.kind == "baseline") for head in given.heads]
    nothing = {"suspects": (), "duplicates": (), "skipped": (), "curves": (), "drawings": ()}
    given = replace(given, clips=right, heads=best, calibration_error=None, **nothing)
    words = " ".join(written(tmp_path, given)[1].words.split())
    for expected in (
        "None: all test clips are recognised.",
        "No training clip looks mislabelled.",
        "None found.",
        "None: all files could be read.",
    ):
        assert expected in words
    for absent in ("plainest baseline", "calibration", "Most frequent confusions", "Training"):
        assert absent not in words


def test_thumbnails_are_six_small_frames_from_first_to_last():
    frames = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None], (20, 240, 320, 3))
    small = thumbnail(frames)
    assert small.shape == (6, 112, 149, 3)
    assert small[:, 0, 0, 0].tolist() == [0, 4, 8, 11, 15, 19]
    assert thumbnail(frames[:2, :50, :60]).shape == (2, 50, 60, 3)  # never enlarged
    assert thumbnail(frames[:1, :60]).shape == (1, 38, 200, 3)


def test_drawings_show_the_graph_and_what_colours_mean():
    drawn = drawing("a.mp4")
    assert [t for _, t in drawn.pictures] == [0, 6, 9, 15]
    assert [legend.title for legend in drawn.legends] == ["nodes", "stage 2 of 2: attention"]
    assert drawn.has_arrows
    assert (drawn.predicted, round(drawn.confidence, 2)) == (EVIL, 0.7)
    assert drawn_clip(Prediction("a", CLASSES, torch.ones(3), [0]), film(), "walk") is None


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs chromium on PATH")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


CELL, PANEL = '.matrix [aria-controls="cell-1-0"]', "#cell-1-0"
OPEN = "[...document.querySelectorAll('.panel')].filter(p => p.checkVisibility()).map(p => p.id)"


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser_cells_open_their_clips_which_play(
    browser: Browser, path: Path, width: int, height: int, dark: bool
):
    browser.open(path, width, height, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(OPEN) == []
    browser.click(CELL)
    assert browser.run(OPEN) == ["cell-1-0"]
    shown = "[...document.querySelectorAll('#cell-1-0 .film img:not(.moving)')]"
    assert browser.run(f"{shown}.filter(i => i.checkVisibility()).length") == 4
    moving = f"document.querySelector('{PANEL} .moving').checkVisibility()"
    assert not browser.run(moving)
    browser.click(f"{PANEL} .film")
    assert browser.run(moving)
    browser.click(f"{PANEL} h3")
    assert not browser.run(moving)
    browser.click(CELL)  # closes
    browser.click(CELL)
    top = browser.run(f"document.querySelector('{PANEL}').getBoundingClientRect().top")
    assert 0 <= top < height
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.click('.confusions [aria-controls="cell-0-1"]')  # another one takes its place
    assert browser.run(OPEN) == ["cell-0-1"]
    browser.click("#cell-0-1 header button")
    assert browser.run(OPEN) == []
    assert browser.complaints == []


def test_in_a_browser_all_works_by_keyboard(browser: Browser, path: Path):
    browser.open(path, 1280, 900)
    browser.run(f"document.querySelector('{CELL}').focus()")
    browser.press_enter()
    assert browser.run(OPEN) == ["cell-1-0"]
    assert browser.run(f"document.querySelector('{CELL}').ariaExpanded") == "true"
    assert browser.run("document.activeElement.id") == "cell-1-0"
    moving = f"document.querySelector('{PANEL} .moving')"
    assert not browser.run(f"{moving}.checkVisibility()")
    browser.run(f"document.querySelector('{PANEL} .film').focus()")
    assert browser.run(f"{moving}.checkVisibility()")
    browser.run("document.activeElement.blur()")
    assert not browser.run(f"{moving}.checkVisibility()")
    browser.run(f"document.querySelector('{PANEL} header button').focus()")
    browser.press_enter()
    assert browser.run(OPEN) == []
    assert browser.run(f"document.activeElement === document.querySelector('{CELL}')")
    assert browser.complaints == []
