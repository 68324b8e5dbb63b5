"""The overlay video: every frame with nodes and strongest edges, or with what is looked at, and the
five likeliest classes beside it.

Shapes: F frames of the overlay, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from vidgraph.records import Explanation, Prediction
from vidgraph.video.writer import write_video
from vidgraph.visualize.attention import AttentionPictures
from vidgraph.visualize.canvas import Legend, enlarge, pixel_axes, rendered
from vidgraph.visualize.graph import GraphPictures
from vidgraph.visualize.regions import RegionPictures

_WIDTH, _MARGIN, _FOOT = 300, 18, 90  # of the panel, in pixels
_ROOM = _WIDTH - 2 * _MARGIN
_INK, _SOFT, _TRACK, _ACCENT = "#1c1f23", "#5b6470", "#e6eaee", "#0b6aa2"
# Shorter overlays are slowed down: nobody reads ten frames in a third of a second.
_SHORTEST_SECONDS = 4.0


class Pictures(Protocol):
    """What draws an explanation over the frames of a clip."""

    def over_frame(self, frame: np.ndarray, t: int, *, side: int = 512) -> np.ndarray:
        """One frame with what the model looked at.

        Args:
            frame: uint8 [H, W, 3], the part of the picture that the model saw.
            t: sampled frame, from 0.
            side: shorter side of the drawing in pixels.

        Returns:
            uint8 [h, w, 3].
        """
        ...

    def legend(self) -> Legend | None:
        """What the colours mean."""
        ...


def pictures_of(explanation: Explanation | None) -> Pictures | None:
    """What draws an explanation: of a fixed graph, of boxes, or of a map's cells."""
    if explanation is None:
        return None
    if explanation.maps is not None:
        return AttentionPictures(explanation)
    if explanation.regions is not None:
        return RegionPictures(explanation)
    return GraphPictures(explanation)


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

    Args:
        path: the .mp4 file; written whole or not at all.
        frames: the part of the picture that the model saw, uint8 [F, H, W, 3]; what gives one after
            another need not hold them all.
        prediction: of the video; without explanation, only the panel is drawn.
        fps: frames per second of the video; an overlay under four seconds is slowed down to four.
        frame_numbers: index of each frame in the video.
        side: shorter side of a drawn frame in pixels.
        progress: is called with (frames drawn, in all).

    Raises:
        VideoError: wrong suffix, no frames, or frames that cannot be encoded.
        RunError: the folder cannot be written or the disk is full.
    """
    slowed = min(fps, len(frame_numbers) / _SHORTEST_SECONDS)
    write_video(path, _drawn(frames, prediction, frame_numbers, side, progress), slowed)


def _drawn(
    frames: Iterable[np.ndarray],
    prediction: Prediction,
    numbers: Sequence[int],
    side: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[np.ndarray]:
    """Each frame with what is drawn over it, and the panel beside it."""
    sampled = np.array(prediction.frame_indices)
    pictures = pictures_of(prediction.explanation)
    what = "attention" if isinstance(pictures, AttentionPictures) else "graph"
    panel, time_line = None, _TimeLine(prediction.frame_indices, max([1, *numbers]))
    for done, (frame, number) in enumerate(zip(frames, numbers, strict=True), start=1):
        t = int(np.abs(sampled - number).argmin())
        drawn = pictures.over_frame(frame, t, side=side) if pictures else enlarge(frame, side)
        if panel is None:
            legend = pictures.legend() if pictures else None
            panel = _panel(prediction, legend, drawn.shape[0])
        text = f"frame {number}"
        if number != sampled[t] and pictures is not None:
            text += f" ({what} of frame {sampled[t]})"
        panel[-_FOOT:] = time_line.at(number, text)[-len(panel) :]
        yield np.concatenate([drawn, panel], axis=1)
        if progress is not None:
            progress(done, len(numbers))


def _panel(prediction: Prediction, legend: Legend | None, height: int) -> np.ndarray:
    """The likeliest classes and what the colours mean: the same in all frames."""
    axes = pixel_axes(_WIDTH, height, "white")
    _write(axes, 24, Path(prediction.video).name, 15, weight="bold")
    names, probabilities = zip(*prediction.top(5), strict=True)
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
    return rendered(axes)[..., :3]


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


class _TimeLine:
    """The foot of the panel: ticks where the model looked, a mark where the frame is."""

    def __init__(self, indices: Sequence[int], last: int) -> None:
        self._axes, self._scale = pixel_axes(_WIDTH, _FOOT, "white"), _ROOM / last
        self._caption = _write(self._axes, 20, "", 13)
        self._axes.plot([_MARGIN, _MARGIN + _ROOM], [50, 50], color="#b9c2cb", linewidth=2)
        ticks = _MARGIN + self._scale * np.minimum(indices, last)
        self._axes.vlines(ticks, 44, 56, color=_SOFT, linewidth=2)
        (self._mark,) = self._axes.plot([0], [50], "o", color=_ACCENT, markersize=12)

    def at(self, number: int, caption: str) -> np.ndarray:
        """The time line of one frame, uint8 [90, 300, 3]."""
        self._caption.set_text(caption)
        self._mark.set_xdata([_MARGIN + self._scale * number])
        return rendered(self._axes)[..., :3]


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
