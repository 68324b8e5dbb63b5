"""Charts: they hold what they are given, at the places where it belongs."""

from __future__ import annotations

import io

import numpy as np
from pictures import near
from PIL import Image

from vidgraph.visualize.charts import (
    LINE_COLOURS,
    Curve,
    ScoreLine,
    confusion_chart,
    learning_curves,
    score_chart,
)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_learning_curves_draw_each_line():
    up = Curve("RSTG", [1000, 2000, 3000], [10.0, 50.0, 90.0])
    both = pixels(learning_curves([up, Curve("Mean+LSTM", [1000, 3000], [10.0, 20.0])], 10.0))
    blue, orange = (near(both, colour, 12) for colour in LINE_COLOURS[:2])
    assert min(blue.sum(), orange.sum()) > 500
    # 90 % is far above 20 %
    assert np.nonzero(blue)[0].min() < np.nonzero(orange)[0].min() - 100


def test_scores_draw_a_dot_per_model():
    graph = ScoreLine("RSTG", 91.0, (88.0, 93.0), 600)
    one = pixels(score_chart([graph], 10.0))
    two = pixels(score_chart([graph, ScoreLine("Mean+LSTM", 20.0, (17.0, 24.0), 600)], 10.0))
    assert two.shape[0] > one.shape[0]
    blue, orange = (np.nonzero(near(two, colour, 12))[1] for colour in LINE_COLOURS[:2])
    assert blue.min() > orange.max()


def test_confusion_chart_shows_shares_of_the_true_class_and_survives_an_empty_one():
    picture = pixels(confusion_chart(np.array([[99, 1], [0, 0]]), ["clap", "wave"]))
    height, width = picture.shape[:2]
    darkest = near(picture[:, : width * 3 // 4], "#08306b", 12)  # the colour bar is at the right
    rows, columns = np.nonzero(darkest)
    assert rows.mean() < height / 2
    assert columns.mean() < width / 2
