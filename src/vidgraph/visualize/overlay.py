"""The overlay video: every frame with nodes and strongest edges, or with what is looked at, and the
five likeliest classes beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from vidgraph.records import Explanation, Prediction
from vidgraph.video.writer import write_video
from vidgraph.visualize.attention import AttentionPictures
from vidgraph.visualize.canvas import Legend, enlarge, pixel_axes
from vidgraph.visualize.graph import GraphPictures
from vidgraph.visualize.regions import RegionPictures

_WIDTH, _MARGIN = 300, 18  # of the panel, in pixels
_ROOM = _WIDTH - 2 * _MARGIN
_INK, _SOFT, _TRACK, _ACCENT = "#1c1f23", "#5b6470", "#e6eaee", "#0b6aa2"
# Shorter overlays are slowed down: nobody reads ten frames in a third of a second.
_SHORTEST_SECONDS = 4.0


Pictures = AttentionPictures | GraphPictures | RegionPictures


def pictures_of(explanation: Explanation | None) -> Pictures | None:
    """What draws an explanation: of a fixed graph, of boxes, or of a map's cells. Its `over_frame`
    draws on a frame, uint8 [H, W, 3], what the model looked at in sampled frame t; its `legend`
    says what the colours mean."""
    if explanation is None:
        return None
    if explanation.maps is not None:
        return AttentionPictures(explanation)
    return (
        GraphPictures(explanation) if explanation.regions is None else RegionPictures(explanation)
    )


def write_overlay(
    path: str | Path,
    frames: Iterable[np.ndarray],
    prediction: Prediction,
    *,
    fps: float,
    frame_numbers: Sequence[int],
    side: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes an .mp4 in which each frame shows the explanation of the sampled frame nearest to it.

    `frames`, uint8 [F, H, W, 3], are the part of the picture that the model saw, and may come one
    after another; their `frame_numbers` and `fps` are those of the video, but an overlay under four
    seconds is slowed down to four. Without explanation, only the panel is drawn. `progress` is
    called with (frames drawn, in all).
    """
    sampled, pictures = np.array(prediction.frame_indices), pictures_of(prediction.explanation)
    what = "attention" if isinstance(pictures, AttentionPictures) else "graph"

    def drawn() -> Iterator[np.ndarray]:
        panel = None
        for done, (frame, number) in enumerate(zip(frames, frame_numbers, strict=True), start=1):
            t = int(np.abs(sampled - number).argmin())
            drawn = pictures.over_frame(frame, t, side=side) if pictures else enlarge(frame, side)
            if panel is None:
                legend = pictures.legend() if pictures else None
                panel = _Panel(prediction, legend, drawn.shape[0], max([1, *frame_numbers]))
            shown = f" ({what} of frame {sampled[t]})" if pictures and number != sampled[t] else ""
            yield np.concatenate([drawn, panel.at(number, f"frame {number}{shown}")], axis=1)
            if progress is not None:
                progress(done, len(frame_numbers))

    write_video(path, drawn(), min(fps, len(frame_numbers) / _SHORTEST_SECONDS))


class _Panel:
    """What stands beside a frame: the likeliest classes, what the colours mean, and at the foot
    ticks where the model looked and a mark where the frame is."""

    def __init__(self, answer: Prediction, legend: Legend | None, height: int, last: int) -> None:
        self._axes = axes = pixel_axes(_WIDTH, height, "white")
        _write(axes, 24, Path(answer.video).name, 15, weight="bold")
        names, probabilities = zip(*answer.top(5), strict=True)
        bars = 80.0 + 46 * np.arange(len(names))
        for y, name, probability in zip(bars - 18, names, probabilities, strict=True):
            weight = "bold" if name == names[0] else "normal"
            _write(axes, y, name, 14, room=_ROOM - 70, weight=weight)
            _write(axes, y, f"{100 * probability:.1f} %", 14, x=_WIDTH - _MARGIN, ha="right")
        lengths = np.maximum(4, _ROOM * np.array(probabilities))
        axes.barh(bars, _ROOM, 10, _MARGIN, color=_TRACK)
        axes.barh(bars, lengths, 10, _MARGIN, color=[_ACCENT] + ["#9fb4c5"] * (len(names) - 1))
        if legend is not None:
            _draw_legend(axes, legend, height - 172)
        self._scale, line = _ROOM / last, height - 40
        self._caption = _write(axes, height - 70, "", 13, animated=True)
        axes.plot([_MARGIN, _MARGIN + _ROOM], [line, line], color="#b9c2cb", linewidth=2)
        ticks = _MARGIN + self._scale * np.minimum(answer.frame_indices, last)
        axes.vlines(ticks, line - 6, line + 6, color=_SOFT, linewidth=2)
        style: Any = {"color": _ACCENT, "markersize": 12, "animated": True}
        (self._mark,) = axes.plot([0], [line], "o", **style)
        self._canvas = cast(FigureCanvasAgg, axes.figure.canvas)
        self._canvas.draw()  # all but the two that move, which alone are drawn for each frame
        self._still = self._canvas.copy_from_bbox(axes.bbox)

    def at(self, number: int, caption: str) -> np.ndarray:
        """The panel of one frame of the video, uint8 [height, 300, 3]."""
        self._caption.set_text(caption)
        self._mark.set_xdata([_MARGIN + self._scale * number])
        self._canvas.restore_region(self._still)
        self._axes.draw_artist(self._caption)
        self._axes.draw_artist(self._mark)
        return np.array(self._canvas.buffer_rgba())[..., :3]


def _draw_legend(axes: Axes, legend: Legend, y: float) -> None:
    _write(axes, y, legend.title, 13)
    for row, (colour, meaning) in enumerate(legend.entries, start=1):
        corner = _MARGIN + 1, y + 22 * row - 6
        axes.add_patch(Rectangle(corner, 12, 12, fill=False, edgecolor=colour, linewidth=3))
        _write(axes, y + 22 * row, meaning, 13, x=_MARGIN + 22)
    if legend.colours:
        strip = np.array([[to_rgb(colour) for colour in legend.colours]])
        extent = (_MARGIN, _MARGIN + _ROOM, y + 30, y + 20)
        axes.imshow(strip, extent=extent, aspect="auto", interpolation="bilinear")
        _write(axes, y + 42, legend.low, 12, color=_SOFT)
        _write(axes, y + 42, legend.high, 12, x=_WIDTH - _MARGIN, ha="right", color=_SOFT)


def _write(
    axes: Axes, y: float, words: str, size: int, x: float = _MARGIN, room: int = _ROOM, **style: Any
) -> Text:
    """A line of text, cut in the middle where it is wider than `room`."""
    style = {"color": _INK, "va": "center", "parse_math": False, **style}
    text, keep = axes.text(x, y, words, size=size, **style), len(words) // 2
    while keep > 1 and text.get_window_extent().width > room:
        text.set_text(f"{words[:keep]}...{words[-keep:]}")
        keep -= 1
    return text
