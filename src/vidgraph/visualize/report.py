"""The HTML reports: one prediction (`predict --save report.html`), and the demo with its curves and
scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from vidgraph.records import Explanation, Prediction
from vidgraph.visualize import graph, page
from vidgraph.visualize.attention_maps import AttentionPictures
from vidgraph.visualize.charts import (
    Curve,
    ScoreLine,
    confusion_chart,
    learning_curves,
    score_chart,
)
from vidgraph.visualize.regions import (
    NEIGHBOUR_COLOUR,
    PROPOSAL_COLOUR,
    QUERY_COLOUR,
    TRACK_COLOURS,
    RegionPictures,
)

_SHOWN_FRAMES = 5  # per stage
_STRIP_FRAMES = 10
_CHART_WIDTH = 760
_NEARLY_EVEN = 1.2  # times an even share


def write_prediction_report(
    path: str | Path,
    prediction: Prediction,
    frames: np.ndarray,
    *,
    model_name: str = "",
    notes: Sequence[str] = (),
) -> None:
    """What the model says of one video, the frames it saw, and the graph over them.

    Args:
        path: the .html file; written whole or not at all.
        prediction: of the video.
        frames: the part of the picture that the model saw, one per entry of
            `prediction.frame_indices`, uint8 [T, H, W, 3].
        model_name: shown with the answer.
        notes: remarks that a reader must know, such as that the video is shorter than a clip.

    Raises:
        RunError: the file cannot be written.
    """
    name = Path(prediction.video).name
    by = f" by {model_name}" if model_name else ""
    lead = f"What happens in {name}, as recognised{by} from {len(prediction.frame_indices)} frames."
    parts = [
        *_prediction_parts(prediction, notes),
        *_frame_parts(prediction, frames),
        *_graph_parts(prediction, frames),
    ]
    page.write_page(
        path,
        page.document(
            name, lead, parts, "Written by vidgraph. This file holds everything it shows."
        ),
    )


def write_demo_report(
    path: str | Path,
    *,
    title: str,
    lead: str,
    facts: Sequence[tuple[str, str]],
    curves: Sequence[Curve],
    scores: Sequence[ScoreLine],
    chance: float,
    confusion: tuple[str, np.ndarray, Sequence[str]],
    prediction: Prediction,
    frames: np.ndarray,
    truth: str | None = None,
    findings: Sequence[str] = (),
) -> None:
    """Training and test of some models under equal budget, then one prediction in detail.

    Args:
        path: the .html file; written whole or not at all.
        title: of the page.
        lead: the task in a sentence or two.
        facts: (term, value) lines: data, budget, hardware, time.
        curves: learning curves.
        scores: final scores on the test split.
        chance: accuracy of guessing, in percent.
        confusion: (model, counts [K, K] with truth in rows, class names).
        prediction: of a video that no training saw.
        frames: what the model saw of it, uint8 [T, H, W, 3].
        truth: its label.
        findings: sentences on what is seen.

    Raises:
        RunError: the file cannot be written.
    """
    parts = [page.facts(facts)] if facts else []
    parts += [*_score_parts(scores, chance), *[page.paragraph(text) for text in findings]]
    parts += _curve_parts(curves, chance)
    model, counts, names = confusion
    alt = (
        f"Confusion matrix of {model} over {len(names)} classes; {_diagonal(counts):.1f} "
        "percent lie on the diagonal."
    )
    caption = (
        f"{model}: of the clips of each class (row), the percentage that was taken for each "
        "class (column)."
    )
    chart_width = min(_CHART_WIDTH, 350 + 40 * len(names))
    parts += [
        page.heading("What is confused with what"),
        page.figure(confusion_chart(counts, names), alt, caption, chart_width),
    ]
    parts += [
        page.heading(f"One unseen video: {Path(prediction.video).name}"),
        *_prediction_parts(prediction, (), truth),
    ]
    parts += [*_frame_parts(prediction, frames), *_graph_parts(prediction, frames)]
    page.write_page(
        path,
        page.document(
            title, lead, parts, "Written by vidgraph. This file holds everything it shows."
        ),
    )


def _score_parts(scores: Sequence[ScoreLine], chance: float) -> list[str]:
    alt = "; ".join(
        f"{s.name}: {s.accuracy:.1f} percent, interval {s.ci95[0]:.1f} to {s.ci95[1]:.1f}"
        for s in scores
    )
    rows = [
        [s.name, f"{s.accuracy:.1f} %", f"{s.ci95[0]:.1f} to {s.ci95[1]:.1f}", f"{s.n:,}"]
        for s in scores
    ]
    rows.append(["guessing (chance)", f"{chance:.3g} %", "", ""])
    return [
        page.heading("Scores"),
        page.figure(
            score_chart(scores, chance),
            f"Accuracy on test clips. {alt}; chance {chance:.3g} percent.",
            "Accuracy on clips that no training saw. The bar through each dot is the 95 % "
            "interval.",
            _CHART_WIDTH,
        ),
        page.table(["Model", "Accuracy", "95 % interval", "Test clips"], rows),
    ]


def _curve_parts(curves: Sequence[Curve], chance: float) -> list[str]:
    drawn = [curve for curve in curves if len(curve.clips)]
    if not drawn:
        return []
    ends = "; ".join(
        f"{c.name} ends at {c.accuracy[-1]:.1f} percent after {c.clips[-1]:,.0f} clips"
        for c in drawn
    )
    caption = (
        "Accuracy on validation clips while training, against the number of training clips "
        "seen. All models get equal budgets."
    )
    chart = learning_curves(drawn, chance)
    return [
        page.heading("Learning curves"),
        page.figure(chart, f"Learning curves. {ends}.", caption, _CHART_WIDTH),
    ]


def _prediction_parts(
    prediction: Prediction, notes: Sequence[str], truth: str | None = None
) -> list[str]:
    top = prediction.top(5)
    answer = f'<p class="answer"><strong>{escape(top[0][0])}</strong> with {100 * top[0][1]:.1f} %'
    if truth is not None:
        answer += (
            ", which is right" if truth == top[0][0] else f"; the true label is {escape(truth)}"
        )
    parts = [answer + "</p>", *[page.paragraph(note, "note") for note in notes]]
    return [*parts, page.bars(top)]


def _frame_parts(prediction: Prediction, frames: np.ndarray) -> list[str]:
    shown = _evenly(len(frames), _STRIP_FRAMES)
    indices = prediction.frame_indices
    pictures = [
        (graph.enlarge(frames[t], 160), f"Frame {indices[t]} of the video.", f"frame {indices[t]}")
        for t in shown
    ]
    listed = (
        ", ".join(map(str, indices))
        if len(indices) <= 40
        else f"{indices[0]}, {indices[1]}, ... {indices[-1]} ({len(indices)} frames)"
    )
    text = f"Source frames used: {listed}."
    return [
        page.heading("What the model saw", 3),
        page.tiles(pictures, min(10, len(pictures))),
        page.paragraph(text),
    ]


def _graph_parts(prediction: Prediction, frames: np.ndarray) -> list[str]:
    explanation = prediction.explanation
    if explanation is None:
        return [page.paragraph("This model has no graph, so there are no nodes and edges to draw.")]
    if explanation.maps is not None:
        return _map_parts(AttentionPictures(explanation), prediction.frame_indices, frames)
    if explanation.regions is not None:
        return _region_parts(RegionPictures(explanation), prediction.frame_indices, frames)
    stages = graph.num_stages(explanation)
    reading = (
        "Each outline is a node: a region of the frame. An arrow runs from the node that sends to "
        "the node that receives; "
        "the wider and yellower it is, the more of its attention the receiver gives to that "
        "sender, beyond an even share. "
        "Only the strongest edges of each frame are drawn; where there is none, all neighbours "
        "are heard about alike. "
        "A disc grows with the attention that others pay to its node."
    )
    parts = [
        page.heading("The graph over the frames", 3),
        page.paragraph(reading),
        _key(explanation),
    ]
    if stages:
        colours = [graph.attention_colour(s) for s in np.linspace(0, 1, 9)]
        parts.append(
            page.colour_scale(
                colours,
                "attention above an even share: 0",
                f"+{graph.preference_scale(explanation):.2f}",
            )
        )
    shown = _evenly(len(frames), _SHOWN_FRAMES)
    for stage in range(max(1, stages)):
        title = f"stage {stage + 1} of {stages}" if stages else "nodes"
        pictures = []
        for t in shown:
            drawing = graph.draw_graph(
                frames[t], explanation, t, stage, num_edges=6, side=400, boldness=1.5
            )
            alt = f"Nodes and strongest edges of {title} over frame {prediction.frame_indices[t]}."
            pictures.append((drawing, alt, f"{title}, frame {prediction.frame_indices[t]}"))
        parts.append(page.tiles(pictures, len(pictures)))
    return [
        *parts,
        *(_edge_parts(explanation, prediction.frame_indices) if stages else []),
        *_node_parts(explanation, frames),
    ]


def _map_parts(
    maps: AttentionPictures, frame_indices: Sequence[int], frames: np.ndarray
) -> list[str]:
    """Of a model that attends to the cells of a map."""
    reading = (
        "The model pools each frame by weights that the motion around it helps to decide. The "
        "frame is dark where it gets less than an "
        "even share of them, and the warmer the more it gets above one; an even share everywhere "
        "leaves the frame as it is."
    )
    shown = _evenly(len(frames), _STRIP_FRAMES)
    pictures, rows = [], []
    for t in shown:
        at, (across, down) = f"frame {frame_indices[t]}", maps.place(t)
        pictures.append((maps.over_frame(frames[t], t, side=300), f"Attention over {at}.", at))
        where = f"{100 * across:.0f} % from the left, {100 * down:.0f} % from the top"
        rows.append([at, where, f"{maps.shares[t].max():.2f}", f"{100 * maps.looked_at(t):.0f} %"])
    parts = [
        page.heading("Where the model looks", 3),
        page.paragraph(reading),
        page.colour_scale(maps.colours(), "an even share", f"{maps.scale:.1f} times that"),
        page.tiles(pictures, min(_SHOWN_FRAMES, len(pictures))),
        page.table(
            ["Frame", "Most attention", "Times an even share", "Of the frame"],
            rows,
            num_text_columns=2,
        ),
        page.paragraph(
            "Of the frame: the part over which the attention would be spread if it were even "
            "there and absent elsewhere."
        ),
    ]
    if maps.shares.max() < _NEARLY_EVEN:
        parts.append(
            page.paragraph(
                "Attention is nearly even here: the weighted mean is close to the plain one."
            )
        )
    return parts


def _region_parts(
    regions: RegionPictures, frame_indices: Sequence[int], frames: np.ndarray
) -> list[str]:
    """Of a model whose nodes are boxes: trajectories by overlap, and what is most similar to a few
    regions.
    """
    links = regions.links
    counts = links.mask.sum(1).tolist()
    per_frame = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    text = (
        f"The nodes of the graph are {sum(counts)} boxes in {len(counts)} frames, {per_frame} "
        "in each."
    )
    parts = [page.heading("The regions", 3), page.paragraph(text)]
    if links.overlap is not None and not regions.tracks:
        parts.append(
            page.paragraph(
                "No box goes on in the next frame by an IoU of 0.3 or more, so there are no "
                "trajectories to draw."
            )
        )
    if not regions.tracks and not regions.queries:
        pictures = [
            (regions.over_frame(frames[t], t, side=300), "Regions.", f"frame {frame_indices[t]}")
            for t in _evenly(len(frames), 5)
        ]
        return [*parts, page.tiles(pictures, len(pictures))]
    if regions.tracks:
        parts += _track_parts(regions, frame_indices, frames)
    return [*parts, *_query_parts(regions, frame_indices, frames)] if regions.queries else parts


def _track_parts(
    regions: RegionPictures, frame_indices: Sequence[int], frames: np.ndarray
) -> list[str]:
    reading = (
        "A box is linked to every box of the next frame that it overlaps, by their intersection "
        "over union (IoU). Each colour follows one "
        "thing, from every box to the one that it overlaps most, by at least 0.3; arrows run "
        "along time. All other regions are faint green."
    )
    colours = list(
        zip(
            TRACK_COLOURS, (f"trajectory {i + 1}" for i in range(len(regions.tracks))), strict=False
        )
    )
    rows = []
    for number, track in enumerate(regions.tracks):
        first, last = (
            frame_indices[int(regions.links.frames[step])]
            for step in (track.places[0][0], track.places[-1][0])
        )
        rows.append(
            [
                f"trajectory {number + 1}",
                f"{first} to {last}",
                f"{len(track.places)}",
                f"{track.mean_iou:.2f}",
            ]
        )
    return [
        page.heading("What follows what by overlap", 3),
        page.paragraph(reading),
        page.colour_key(colours, "Boxes:"),
        page.figure(
            regions.strip(frames),
            "Frames side by side with the boxes of each trajectory.",
            "Time runs from left to right.",
        ),
        page.table(["Trajectory", "Frames of the video", "Boxes", "Mean IoU"], rows),
    ]


def _query_parts(
    regions: RegionPictures, frame_indices: Sequence[int], frames: np.ndarray
) -> list[str]:
    reading = (
        "Every region attends to all others in all frames. The orange box is one region, the blue "
        "ones are those that it attends to most. "
        "Shown are regions whose attention is least even."
    )
    colours = [
        (QUERY_COLOUR, "one region"),
        (NEIGHBOUR_COLOUR, "most similar to it"),
        (PROPOSAL_COLOUR, "other regions"),
    ]
    parts = [
        page.heading("What is similar to what", 3),
        page.paragraph(reading),
        page.colour_key(colours, "Boxes:"),
    ]
    for query in regions.queries:
        at = frame_indices[int(regions.links.frames[query.place[0]])]
        pictures = []
        for picture, t in regions.query(frames, query):
            pictures.append(
                (picture, f"Regions of frame {frame_indices[t]}.", f"frame {frame_indices[t]}")
            )
        weights = ", ".join(f"{weight:.4f}" for weight in query.weights)
        text = (
            f"A region of frame {at}: its most similar regions weigh {weights}; an even share "
            f"is {query.even:.4f}."
        )
        parts += [page.tiles(pictures, len(pictures)), page.paragraph(text)]
    if max(query.weights[0] / query.even for query in regions.queries) < 2:
        parts.append(
            page.paragraph(
                "Attention is nearly even here: no region attends to another much more than to "
                "all the rest."
            )
        )
    return parts


def _edge_parts(explanation: Explanation, frame_indices: Sequence[int]) -> list[str]:
    edges = [
        edge
        for stage in range(graph.num_stages(explanation))
        for edge in graph.strongest_edges(explanation, stage, 4)
    ]
    rows = [
        [
            f"{edge.stage + 1}",
            f"{edge.destination} listens to {edge.source}",
            f"{edge.mean:.2f}",
            f"{edge.even_share:.2f}",
            f"{edge.highest:.2f} in frame {frame_indices[edge.frame]}",
        ]
        for edge in edges
    ]
    head = ["Stage", "Edge", "Share of attention", "Even share", "Highest"]
    boldest = max((edge.mean / edge.even_share for edge in edges), default=1.0)
    if boldest < 1.2:
        verdict = (
            "Attention is nearly even here: no node hears any neighbour much more than the others."
        )
    else:
        verdict = f"The clearest preference in this list is {boldest:.1f} times an even share."
    text = (
        "Shares are means over the frames; an even share is what each neighbour would get if "
        f"the receiver heard all alike. {verdict}"
    )
    return [
        page.heading("Who listens to whom", 3),
        page.paragraph(text),
        page.table(head, rows, num_text_columns=2),
    ]


def _node_parts(explanation: Explanation, frames: np.ndarray) -> list[str]:
    pictures = [
        (picture, "Node regions with their names over the first frame.", "")
        for picture in graph.draw_node_key(frames[0], explanation, side=340)
    ]
    return [page.heading("Where the nodes are", 3), page.tiles(pictures, max(3, len(pictures)))]


def _key(explanation: Explanation) -> str:
    groups = graph.node_groups(explanation)
    names = {
        group: [n for n, g in zip(explanation.names, groups, strict=True) if g == group]
        for group in sorted(set(groups))
    }
    entries = []
    for group, members in names.items():
        text = members[0] if len(members) == 1 else f"{members[0]} to {members[-1]}"
        entries.append((graph.NODE_COLOURS[group], text))
    return page.colour_key(entries)


def _diagonal(counts: np.ndarray) -> float:
    return 100.0 * float(np.trace(counts)) / max(1, int(counts.sum()))


def _evenly(total: int, count: int) -> list[int]:
    """Up to `count` of 0 ... total - 1, first and last included."""
    return sorted({round(i) for i in np.linspace(0, total - 1, min(count, total)).tolist()})
