"""Boxes of the frames between those that a detector looked at: what overlaps from one look to the
next is one thing, which moves evenly in between.

Shapes: L looks, T frames of the video, n boxes of one frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

Rows = NDArray[np.float32]

_LEAST_IOU = 0.3  # of the same thing in two looks
_MOST_MISSED = 3  # looks in a row in which a thing may go unseen


def along_tracks(
    looks: Sequence[Rows], frame_indices: Sequence[int], num_frames: int
) -> list[Rows]:
    """Boxes of every frame, with the number of the track that each belongs to.

    A track's corners and score change evenly from one of its looks to the next, also past looks
    that missed it. Before its first and after its last look it stands still for as long as frames
    are nearer to this look than to another, the earlier of two.

    Args:
        looks: corners, score and class of the boxes of each look, [n, 6].
        frame_indices: source frames of the looks, increasing, [L].
        num_frames: of the video.

    Returns:
        For each frame corners, score, class and track, highest score first, [n, 7]; T of them.
    """
    frames = np.asarray(frame_indices)
    # The first frame that is nearest to each look, and, in the end, the number of frames.
    begins = np.array([0, *((frames[:-1] + frames[1:]) // 2 + 1), num_frames])
    spans, rows = [np.zeros(0, np.int64)], [np.zeros((0, 7), np.float32)]
    for track, (numbers, boxes) in enumerate(_tracks(looks)):
        span = np.arange(begins[numbers[0]], begins[numbers[-1] + 1])
        of_frames = [np.interp(span, frames[numbers], column) for column in boxes.T]
        spans.append(span)
        rows.append(np.stack([*of_frames, np.full(len(span), track)], axis=1).astype(np.float32))
    frame_of, found = np.concatenate(spans), np.concatenate(rows)
    order = np.lexsort((-found[:, 4], frame_of))
    ends = np.searchsorted(frame_of[order], np.arange(1, num_frames))
    return np.split(found[order], ends)


def _tracks(looks: Sequence[Rows]) -> list[tuple[list[int], Rows]]:
    """The looks in which each thing was seen, and its boxes there, [looks, 6]; by first look.

    The boxes of a look go to the things of their class that were seen last, such that the sum of
    the overlaps is as large as can be.
    """
    tracks: list[tuple[list[int], list[Rows]]] = []
    for look, boxes in enumerate(looks):
        live = [track for track in tracks if look - track[0][-1] <= _MOST_MISSED + 1]
        last = np.array([track[1][-1] for track in live], np.float32).reshape(-1, 6)
        overlaps = box_iou(torch.from_numpy(last[:, :4]), torch.from_numpy(boxes[:, :4])).numpy()
        overlaps[(overlaps < _LEAST_IOU) | (last[:, 5:] != boxes[:, 5])] = 0
        given = dict(zip(*reversed(linear_sum_assignment(overlaps, maximize=True)), strict=True))
        for number, box in enumerate(boxes):
            thing = given.get(number)
            if thing is not None and overlaps[thing, number]:
                live[thing][0].append(look)
                live[thing][1].append(box)
            else:
                tracks.append(([look], [box]))
    return [(numbers, np.stack(boxes)) for numbers, boxes in tracks]
