"""Charts: they hold what they are given, at the places where it belongs."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from vidgraph.visualize.charts import (
    AttributePanel,
    Curve,
    ScoreLine,
    attribute_chart,
    confusion_chart,
    learning_curves,
    score_chart,
)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_learning_curves_draw_each_series_and_skip_an_empty_one():
    up = Curve("RSTG", [1000, 2000, 3000], [10.0, 50.0, 90.0])
    both = pixels(
        learning_curves(
            [up, Curve("Mean+LSTM", [1000, 3000], [10.0, 20.0]), Curve("none yet", [], [])],
            chance=10.0,
        )
    )
    blue, orange = (np.abs(both - np.array(c)).max(-1) < 12 for c in ((0, 114, 178), (213, 94, 0)))
    assert min(blue.sum(), orange.sum()) > 500
    blue_rows, orange_rows = np.nonzero(blue)[0], np.nonzero(orange)[0]
    assert blue_rows.min() < orange_rows.min() - 100  # 90 % is far above 20 %


def test_scores_draw_a_dot_per_model():
    one = pixels(score_chart([ScoreLine("RSTG", 91.0, (88.0, 93.0), 600)], chance=10.0))
    two = pixels(
        score_chart(
            [
                ScoreLine("RSTG", 91.0, (88.0, 93.0), 600),
                ScoreLine("Mean+LSTM", 20.0, (17.0, 24.0), 600),
            ],
            chance=10.0,
        )
    )
    assert two.shape[0] > one.shape[0]
    orange = np.nonzero(np.abs(two - np.array((213, 94, 0))).max(-1) < 12)[1]
    blue = np.nonzero(np.abs(two - np.array((0, 114, 178))).max(-1) < 12)[1]
    assert blue.min() > orange.max()


def test_confusion_chart_shows_shares_of_the_true_class_and_survives_an_empty_one():
    picture = pixels(confusion_chart(np.array([[99, 1], [0, 0]]), ["clap", "wave"]))
    darkest = np.abs(picture - np.array((8, 48, 107))).max(-1) < 12
    rows, columns = np.nonzero(
        darkest[:, : picture.shape[1] * 3 // 4]
    )  # the colour bar is at the right
    assert rows.mean() < picture.shape[0] / 2
    assert columns.mean() < picture.shape[1] / 2


def test_attributes_draw_a_line_per_model_in_a_panel_each():
    def panel(name: str, scores: list[list[float]]) -> AttributePanel:
        return AttributePanel(
            name, ["no", "yes"], scores, [[(s - 2, s + 2) for s in line] for line in scores]
        )

    rising, falling = (
        panel("Sequence?", [[30.0, 60.0], [30.0, 31.0]]),
        panel("Object?", [[90.0, 60.0], [31.0, 30.0]]),
    )
    picture = pixels(attribute_chart([rising, falling], ["graph", "plain"], "mAP"))
    below_legend = picture[picture.shape[0] // 6 :]
    blue, orange = (
        np.abs(below_legend - np.array(colour)).max(-1) < 12
        for colour in ((0, 114, 178), (213, 94, 0))
    )
    middle = picture.shape[1] // 2
    # mean row of the first and last column of each model in each panel; rows count downwards
    ends = []
    for half in (blue[:, :middle], blue[:, middle:], orange[:, :middle], orange[:, middle:]):
        columns = np.nonzero(half.any(0))[0]
        ends.append(
            [
                float(np.nonzero(half[:, column])[0].mean())
                for column in (columns.min(), columns.max())
            ]
        )
    assert ends[0][0] > ends[0][1] + 20  # rises
    assert ends[1][0] < ends[1][1] - 20  # falls
    assert all(abs(first - last) < 15 for first, last in ends[2:])  # stays
    assert ends[1][0] < ends[0][1] < ends[2][0]  # 90 above 60 above 30 on one scale
    wide = pixels(attribute_chart([rising] * 5, ["graph", "plain"], "mAP"))
    assert wide.shape[0] > 1.5 * picture.shape[0]  # five panels take two rows
