"""The HTML reports: one file, nothing fetched, everything described, and what it says is what it
was given.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import Page
from PIL import Image

from vidgraph.errors import RunError
from vidgraph.models.grid import adjacency, node_boxes, node_names
from vidgraph.records import Explanation, Prediction
from vidgraph.visualize.charts import Curve, ScoreLine
from vidgraph.visualize.report import Training, write_report

CLASSES = ["<1-0>", "2-0", "2-1", "3-0", "3-1", "none"]
GRID = (3, 2, 1)


def prediction(with_graph: bool = True) -> Prediction:
    linked, boxes = adjacency(GRID), node_boxes(GRID).expand(6, -1, -1)
    torch.manual_seed(0)
    attention = torch.randn(2, 6, 14, 14).masked_fill(~linked, -1e9).softmax(-1)
    explanation = Explanation(boxes, linked, attention, node_names(GRID)) if with_graph else None
    probabilities = torch.tensor([0.62, 0.2, 0.1, 0.05, 0.02, 0.01])
    return Prediction("/clips/a & b.mp4", CLASSES, probabilities, [0, 2, 4, 6, 8, 10], explanation)


FRAMES = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("demo") / "report.html"
    training = Training(
        facts=[("Budget", "40,000 clips each")],
        curves=[Curve("RSTG", [100, 200], [20, 80]), Curve("Mean+LSTM", [100, 200], [15, 30])],
        scores=[
            ScoreLine("RSTG", 81.5, (78.2, 84.4), 600),
            ScoreLine("Mean+LSTM", 30.25, (26.7, 34.0), 600),
        ],
        chance=100 / 6,
        confusion=("RSTG", np.eye(6, dtype=int) * 5, CLASSES),
        findings=["The intervals do not overlap."],
    )
    titles = {"title": "Who moves together", "lead": "Three digits wander.", "truth": "2-0"}
    write_report(path, prediction(), FRAMES, training=training, **titles)
    return path.read_text(encoding="utf-8")


def test_prediction_report_says_what_was_predicted(tmp_path: Path):
    path = tmp_path / "report.html"
    answer = prediction()
    answer.notes = ["The video is short."]
    write_report(path, answer, FRAMES, model_name="rstg_small")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "a & b.mp4" in page.words
    assert "<1-0> with 62.0 %" in page.words  # escaped in the source
    assert "Source frames used: 0, 2, 4, 6, 8, 10." in page.words
    assert "The video is short." in page.words
    assert "listens to" in page.words
    widths = re.findall(r'class="fill" style="width: ([\d.]+)%', text)
    assert [*map(float, widths)] == pytest.approx([62, 20, 10, 5, 2])
    assert "stage 2 of 2, frame 10" in page.words


def test_reports_stand_alone(demo: str):
    page = Page(demo)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object"}
    assert not re.search(r"https?://|url\(|@import", demo)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) > 15
    for attributes in images:
        assert attributes["alt"]
        head, data = (attributes["src"] or "").split(",", 1)
        assert head == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    assert ("html", {"lang": "en"}) in page.tags
    assert len(demo) < 4e6


def test_demo_report_holds_scores_chance_and_the_truth(demo: str):
    words = Page(demo).words
    scores = ("81.5 %", "78.2 to 84.4", "30.2 %", "26.7 to 34.0", "16.7 %")
    for expected in (*scores, "the true label is 2-0", "40,000 clips each", "do not overlap"):
        assert expected in words


def test_a_model_without_a_graph_gets_a_report_too(tmp_path: Path):
    path = tmp_path / "report.html"
    write_report(path, prediction(with_graph=False), FRAMES)
    assert "has no graph" in Page(path.read_text(encoding="utf-8")).words


def test_even_attention_is_called_even(tmp_path: Path):
    answer = prediction()
    linked = answer.explanation.adjacency
    even = linked / linked.sum(1, keepdim=True)
    answer.explanation.attention = even.expand(2, 6, -1, -1)
    write_report(tmp_path / "report.html", answer, FRAMES)
    assert "Attention is nearly even" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_target_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report\.html: cannot be written"):
        write_report(tmp_path / "report.html", prediction(False), FRAMES)
