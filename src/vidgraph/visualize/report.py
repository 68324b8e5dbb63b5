"""The HTML reports: one prediction (`predict --save report.html`), and the demo with its curves and
scores. One file each, with its style and pictures inside, no scripts, nothing fetched.

What is computed is here; words and layout are in report.html.j2.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from vidgraph.records import Prediction
from vidgraph.util import atomic_write
from vidgraph.visualize import charts
from vidgraph.visualize.attention import AttentionPictures
from vidgraph.visualize.canvas import enlarge, evenly
from vidgraph.visualize.charts import Curve, ScoreLine
from vidgraph.visualize.graph import GraphPictures
from vidgraph.visualize.overlay import pictures_of
from vidgraph.visualize.regions import PROPOSAL_COLOUR, QUERY_KEY, TRACK_COLOURS, RegionPictures

Values = dict[str, Any]  # of the template
_STRIP_FRAMES = 10
_CHART_WIDTH = 760  # in CSS pixels; charts are drawn at a higher resolution


class Training(NamedTuple):
    """How some models were trained and tested under equal budget."""

    facts: Sequence[tuple[str, str]]  # (term, value): data, budget, hardware, time
    curves: Sequence[Curve]
    scores: Sequence[ScoreLine]  # on the test split
    chance: float  # accuracy of guessing, in percent
    confusion: tuple[str, np.ndarray, Sequence[str]]  # model, counts [K, K], class names
    findings: Sequence[str]  # sentences on what is seen


def write_report(
    path: str | Path,
    prediction: Prediction,
    frames: np.ndarray,
    *,
    model_name: str = "",
    title: str = "",
    lead: str = "",
    truth: str | None = None,
    training: Training | None = None,
) -> None:
    """What the model says of one video, the frames it saw, and the graph over them.

    `frames` are what it saw at `prediction.frame_indices`, uint8 [T, H, W, 3]. Title and lead, the
    first sentence, replace what tells of the prediction; `training` stands above it.
    """
    name, by = Path(prediction.video).name, f" by {model_name}" if model_name else ""
    said = f"What happens in {name}, as recognised{by} from {len(prediction.frame_indices)} frames."
    write_page(
        path,
        "report.html.j2",
        title=title or name,
        lead=lead or said,
        video=name,
        truth=truth,
        top=prediction.top(5),
        notes=prediction.notes,
        indices=prediction.frame_indices,
        strip=[(enlarge(frames[t], 160), t) for t in evenly(len(frames), _STRIP_FRAMES)],
        training=training,
        **({} if training is None else _training_values(training)),
        **_explanation_values(prediction, frames),
    )


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Fills a template of this folder, whole or not at all; the filter `png` makes a picture an
    address that holds it.

    Raises:
        RunError: `path` cannot be written; an older file there is intact.
    """
    how: Any = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, **how)
    environment.filters["png"] = _png_address
    text = environment.get_template(template).render(values)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _training_values(training: Training) -> Values:
    model, counts, names = training.confusion
    curves = [curve for curve in training.curves if len(curve.clips)]
    ends = [f"{curve.name} ends at {curve.accuracy[-1]:.1f} percent" for curve in curves]
    rows = [
        (s.name, f"{s.accuracy:.1f} %", f"{s.ci95[0]:.1f} to {s.ci95[1]:.1f}", f"{s.n:,}")
        for s in training.scores
    ]
    return {
        "score_chart": charts.score_chart(training.scores, training.chance),
        "score_rows": [*rows, ("guessing (chance)", f"{training.chance:.3g} %", "", "")],
        "curve_chart": charts.learning_curves(curves, training.chance) if curves else None,
        "curve_ends": "; ".join(ends),
        "chart_width": _CHART_WIDTH,
        "model": model,
        "right": f"{100 * np.trace(counts) / max(1, counts.sum()):.1f}",
        "confusion_chart": charts.confusion_chart(counts, names),
        "confusion_width": min(_CHART_WIDTH, 350 + 40 * len(names)),
    }


def _png_address(picture: np.ndarray | bytes) -> str:
    """Of a picture, or of a PNG file."""
    if isinstance(picture, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="png")
        picture = buffer.getvalue()
    return data_address(picture, "png")


def data_address(image: bytes, kind: str) -> str:
    """The address that holds an image file of a kind such as png."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def _explanation_values(prediction: Prediction, frames: np.ndarray) -> Values:
    pictures = pictures_of(prediction.explanation)
    if isinstance(pictures, GraphPictures):
        return _graph_values(pictures, prediction.frame_indices, frames)
    if isinstance(pictures, RegionPictures):
        return _region_values(pictures, prediction.frame_indices, frames)
    return _map_values(pictures, prediction.frame_indices, frames) if pictures else {"kind": "none"}


def _drawings(pictures: Any, frames: np.ndarray, count: int, **how: Any) -> list[Any]:
    """Up to `count` frames with what is drawn over them: (drawing, sampled frame)."""
    shown = evenly(len(frames), count)
    return [(pictures.over_frame(frames[t], t, **how), t) for t in shown]


def _graph_values(pictures: GraphPictures, indices: Sequence[int], frames: np.ndarray) -> Values:
    edges = [e for s in range(pictures.num_stages) for e in pictures.strongest_edges(s, 4)]
    rows = []
    for edge in edges:
        highest = f"{edge.highest:.2f} in frame {indices[edge.frame]}"
        shares = f"{edge.mean:.2f}", f"{edge.even_share:.2f}", highest
        rows.append((edge.stage + 1, f"{edge.destination} listens to {edge.source}", *shares))
    stages = [{"stage": s, "num_edges": 6, "side": 400} for s in range(max(1, pictures.num_stages))]
    return {
        "kind": "graph",
        "node_colours": pictures.node_colours(),
        "legend": pictures.legend(),
        "stages": [_drawings(pictures, frames, 5, boldness=1.5, **stage) for stage in stages],
        "edge_rows": rows,
        "boldest": max((edge.mean / edge.even_share for edge in edges), default=1.0),
        "node_key": pictures.node_key(frames[0], side=340),
    }


def _region_values(pictures: RegionPictures, indices: Sequence[int], frames: np.ndarray) -> Values:
    links, tracks, queries = pictures.links, pictures.tracks, pictures.queries
    times = [indices[t] for t in links.frames.tolist()]  # frame of the video of each step
    rows = []
    for number, track in enumerate(tracks, start=1):
        span = f"{times[track.nodes[0][0]]} to {times[track.nodes[-1][0]]}"
        rows.append((f"trajectory {number}", span, len(track.nodes), f"{track.mean_iou:.2f}"))
    bare = not tracks and not queries
    return {
        "kind": "regions",
        "counts": links.mask.sum(1).tolist(),
        "lost": links.overlap is not None and not tracks,
        "bare": _drawings(pictures, frames, 5, side=300) if bare else [],
        "track_key": [(colour, row[0]) for colour, row in zip(TRACK_COLOURS, rows, strict=False)],
        "track_strip": pictures.strip(frames) if tracks else None,
        "track_rows": rows,
        "query_key": [*QUERY_KEY, (PROPOSAL_COLOUR, "other regions")],
        "queries": [(q, times[q.node[0]], pictures.query(frames, q)) for q in queries],
        "boldest": max((query.weights[0] / query.even for query in queries), default=0.0),
    }


def _map_values(pictures: AttentionPictures, indices: Sequence[int], frames: np.ndarray) -> Values:
    rows = []
    for t in evenly(len(frames), _STRIP_FRAMES):
        across, down = pictures.peak(t)
        where = f"{100 * across:.0f} % from the left, {100 * down:.0f} % from the top"
        figures = f"{pictures.shares[t].max():.2f}", f"{100 * pictures.spread(t):.0f} %"
        rows.append((f"frame {indices[t]}", where, *figures))
    return {
        "kind": "maps",
        "legend": pictures.legend(),
        "drawings": _drawings(pictures, frames, _STRIP_FRAMES, side=300),
        "rows": rows,
        "boldest": pictures.shares.max(),
    }
