"""The overlay video: every frame with nodes and strongest edges, or with what is looked at, and the
five likeliest classes beside it.

Shapes: F frames of the overlay, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vidgraph.records import Explanation, Prediction
from vidgraph.video.writer import write_video
from vidgraph.visualize import graph
from vidgraph.visualize.attention_maps import AttentionPictures
from vidgraph.visualize.regions import (
    NEIGHBOUR_COLOUR,
    PROPOSAL_COLOUR,
    QUERY_COLOUR,
    TRACK_COLOURS,
    RegionPictures,
)

_PANEL = 300  # width of the panel in pixels
_MARGIN = 18
_PAPER, _INK, _SOFT, _TRACK, _ACCENT = "white", "#1c1f23", "#5b6470", "#e6eaee", "#0b6aa2"
_SHORTEST_SECONDS = (
    4.0  # shorter overlays are slowed down: nobody reads ten frames in a third of a second
)


def write_overlay(
    path: str | Path,
    frames: Iterable[np.ndarray],
    prediction: Prediction,
    *,
    fps: float,
    frame_numbers: Sequence[int],
    stage: int = -1,
    side: int = 512,
    report: Callable[[int, int], None] | None = None,
) -> None:
    """Writes an .mp4 in which each frame shows the graph of the sampled frame nearest to it.

    Args:
        path: the .mp4 file; written whole or not at all.
        frames: the part of the picture that the model saw, uint8 [F, H, W, 3]; what gives one after
            another need not hold them all.
        prediction: of the video; without explanation, only the panel is drawn.
        fps: frames per second of the video; an overlay under four seconds is slowed down to four.
        frame_numbers: index of each frame in the video.
        stage: space stage to draw, from 0; negative counts from the last.
        side: shorter side of a drawn frame in pixels.
        report: is called with (frames drawn, in all).

    Raises:
        VideoError: wrong suffix, no frames, or frames that cannot be encoded.
        RunError: the folder cannot be written or the disk is full.
    """
    slowed = min(fps, len(frame_numbers) / _SHORTEST_SECONDS)
    pictures = _draw_all(frames, prediction, list(frame_numbers), stage, side)
    write_video(
        path, pictures if report is None else _counted(pictures, len(frame_numbers), report), slowed
    )


def _draw_all(
    frames: Iterable[np.ndarray], prediction: Prediction, numbers: list[int], stage: int, side: int
) -> Iterator[np.ndarray]:
    """Each frame with what is drawn over it, and the panel beside it."""
    sampled = np.array(prediction.frame_indices)
    regions, maps = _pictures_of(prediction.explanation)
    last, panel = max(numbers, default=0), None
    for frame, number in zip(frames, numbers, strict=True):
        t = int(np.abs(sampled - number).argmin())
        found = regions or maps
        picture = (
            found.over_frame(frame, t, side=side)
            if found
            else _draw(frame, prediction, t, stage, side)
        )
        if panel is None:
            panel = _panel(prediction, picture.shape[0], stage)
            if regions is not None:
                _draw_region_key(ImageDraw.Draw(panel), regions, picture.shape[0])
            if maps is not None:
                _draw_strip(
                    ImageDraw.Draw(panel),
                    picture.shape[0] - 172,
                    "attention",
                    AttentionPictures.colours(_PANEL),
                    maps.scale,
                )
        place = f"frame {number}"
        if number != sampled[t] and prediction.explanation is not None:
            place += f" ({'attention' if maps else 'graph'} of frame {sampled[t]})"
        yield np.concatenate([picture, _with_place(panel, number, place, last, sampled)], axis=1)


def _counted(
    pictures: Iterable[np.ndarray], total: int, report: Callable[[int, int], None]
) -> Iterator[np.ndarray]:
    for done, picture in enumerate(pictures, start=1):
        yield picture
        report(done, total)


def _pictures_of(
    explanation: Explanation | None,
) -> tuple[RegionPictures | None, AttentionPictures | None]:
    """What draws the explanation, of a model whose nodes are boxes or that has none; neither for a
    fixed graph.
    """
    if explanation is None:
        return None, None
    regions = RegionPictures(explanation) if explanation.regions is not None else None
    return regions, AttentionPictures(explanation) if explanation.maps is not None else None


def _draw(frame: np.ndarray, prediction: Prediction, t: int, stage: int, side: int) -> np.ndarray:
    if prediction.explanation is None:
        return graph.enlarge(frame, side)
    return graph.draw_graph(frame, prediction.explanation, t, stage, side=side)


def _panel(prediction: Prediction, height: int, stage: int) -> Image.Image:
    """The part of the panel that is the same in all frames."""
    image = Image.new("RGB", (_PANEL, height), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text(
        (_MARGIN, 16),
        _fitted(Path(prediction.video).name, 15, _PANEL - 2 * _MARGIN, bold=True),
        font=graph.font(15, True),
        fill=_INK,
    )
    top, room = 54, _PANEL - 2 * _MARGIN
    for rank, (name, probability) in enumerate(prediction.top(5)):
        y = top + 46 * rank
        percent = f"{100 * probability:.1f} %"
        space = room - graph.font(14).getlength(percent) - 10
        draw.text(
            (_MARGIN, y),
            _fitted(name, 14, space, bold=rank == 0),
            font=graph.font(14, rank == 0),
            fill=_INK,
        )
        draw.text((_PANEL - _MARGIN, y), percent, font=graph.font(14), fill=_INK, anchor="ra")
        draw.rounded_rectangle([_MARGIN, y + 21, _MARGIN + room, y + 31], radius=4, fill=_TRACK)
        colour = _ACCENT if rank == 0 else "#9fb4c5"
        draw.rounded_rectangle(
            [_MARGIN, y + 21, _MARGIN + max(4, room * probability), y + 31], radius=4, fill=colour
        )
    _draw_scale(draw, prediction, height, stage)
    return image


def _draw_scale(draw: ImageDraw.ImageDraw, prediction: Prediction, height: int, stage: int) -> None:
    """The colour scale of the edges, above the foot of the panel."""
    explanation = prediction.explanation
    if explanation is None or not graph.num_stages(explanation):
        return
    stages, room = graph.num_stages(explanation), _PANEL - 2 * _MARGIN
    y = height - 172
    draw.text(
        (_MARGIN, y), f"stage {stage % stages + 1} of {stages}", font=graph.font(13), fill=_INK
    )
    draw.text((_MARGIN, y + 20), "attention above an even share", font=graph.font(13), fill=_SOFT)
    for x in range(room):
        draw.line([_MARGIN + x, y + 42, _MARGIN + x, y + 52], fill=graph.attention_colour(x / room))
    draw.text((_MARGIN, y + 56), "0", font=graph.font(12), fill=_SOFT)
    text = f"+{graph.preference_scale(explanation):.2f}"
    draw.text((_PANEL - _MARGIN, y + 56), text, font=graph.font(12), fill=_SOFT, anchor="ra")


def _draw_strip(
    draw: ImageDraw.ImageDraw,
    y: int,
    text: str,
    colours: Sequence[tuple[int, int, int]],
    scale: float,
) -> None:
    """A scale of colours from an even share of the attention to `scale` times that."""
    room = _PANEL - 2 * _MARGIN
    draw.text((_MARGIN, y), text, font=graph.font(13), fill=_INK)
    draw.text((_MARGIN, y + 20), "dark: less than an even share", font=graph.font(13), fill=_SOFT)
    for x in range(room):
        draw.line(
            [_MARGIN + x, y + 42, _MARGIN + x, y + 52], fill=colours[x * len(colours) // room]
        )
    draw.text((_MARGIN, y + 56), "even", font=graph.font(12), fill=_SOFT)
    draw.text(
        (_PANEL - _MARGIN, y + 56),
        f"{scale:.1f} times",
        font=graph.font(12),
        fill=_SOFT,
        anchor="ra",
    )


def _draw_region_key(draw: ImageDraw.ImageDraw, regions: RegionPictures, height: int) -> None:
    """What the boxes mean, above the foot of the panel."""
    entries = [(PROPOSAL_COLOUR, "regions")]
    if regions.tracks:
        entries.append((TRACK_COLOURS[0], "followed by overlap"))
    elif regions.queries:
        entries += [(QUERY_COLOUR, "one region"), (NEIGHBOUR_COLOUR, "most similar to it")]
    for row, (colour, text) in enumerate(entries):
        y = height - 172 + 22 * row
        draw.rectangle([_MARGIN, y + 2, _MARGIN + 14, y + 14], outline=colour, width=3)
        draw.text((_MARGIN + 22, y), text, font=graph.font(13), fill=_INK)


def _with_place(
    panel: Image.Image, number: int, place: str, last: int, sampled: np.ndarray
) -> np.ndarray:
    """The panel with the frame number, and a time line: ticks where the model looked, a mark where
    this frame is.
    """
    image = panel.copy()
    draw, height, room = ImageDraw.Draw(image), panel.height, _PANEL - 2 * _MARGIN
    last = max(1, last)
    draw.text((_MARGIN, height - 78), place, font=graph.font(13), fill=_INK)
    y = height - 40
    draw.line([_MARGIN, y, _MARGIN + room, y], fill="#b9c2cb", width=2)
    for index in sampled.tolist():
        x = _MARGIN + room * min(1.0, index / last)
        draw.line([x, y - 6, x, y + 6], fill=_SOFT, width=2)
    x = _MARGIN + room * number / last
    draw.ellipse([x - 6, y - 6, x + 6, y + 6], fill=_ACCENT)
    return np.asarray(image)


def _fitted(text: str, size: float, width: float, bold: bool = False) -> str:
    """`text`, cut in the middle if it is wider than `width` pixels."""
    letters = graph.font(size, bold)
    if letters.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and letters.getlength(f"{text[: keep // 2]}...{text[-(keep // 2) :]}") > width:
        keep -= 1
    return f"{text[: keep // 2]}...{text[-(keep // 2) :]}"
