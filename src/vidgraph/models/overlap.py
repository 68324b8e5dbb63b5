"""Which boxes of neighbouring frames overlap: the forward and the backward graph of STRG, kept as
one block per pair of frames.

Source: Videos as Space-Time Region Graphs (ECCV 2018), section 4.3. Boxes are linked to those of
    the next frame only, so that of the
N x N entries of a graph, with N = T * K, all but T - 1 blocks of K x K are zero: at 16 frames of 50
boxes 94 of 100. They are never made.

Shapes: B batch, T frames, K boxes per frame, N nodes, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = torch.finfo(torch.float32).tiny  # zero by this is zero, and no overlap is so small


def pairwise_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Intersection over union of every box with every other, in continuous coordinates: a box from
    2 to 5 is 3 wide.

    Args:
        first_xyxy: [..., K, 4].
        second_xyxy: [..., M, 4], in the same unit.

    Returns:
        float32 [..., K, M]. Boxes without area overlap nothing, also each other.
    """
    first, second = first_xyxy.float(), second_xyxy.float()
    shared = _common(first, second, 0) * _common(first, second, 1)  # [..., K, M]
    union = _area(first)[..., :, None] + _area(second)[..., None, :] - shared
    return shared / union.clamp(min=_TINY)


def _common(first: Tensor, second: Tensor, axis: int) -> Tensor:
    """What each box shares with each other along x (0) or y (1), [..., K, M]."""
    low = torch.maximum(first[..., :, None, axis], second[..., None, :, axis])
    high = torch.minimum(first[..., :, None, axis + 2], second[..., None, :, axis + 2])
    return high.sub_(low).clamp_(min=0)


def _area(boxes: Tensor) -> Tensor:
    """[..., 4] to [...]; a side below zero is none."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(
        min=0
    )


def overlaps(boxes_xyxy: Tensor, mask: Tensor) -> Tensor:
    """How far each box overlaps those of the next frame (the paper's sigma).

    Args:
        boxes_xyxy: [B, T, K, 4]; whatever stands where the mask is False has no influence.
        mask: True where a box exists, [B, T, K].

    Returns:
        IoU of box i at t with box j at t + 1 at [b, t, i, j], float32 [B, T - 1, K, K].
    """
    boxes = boxes_xyxy.masked_fill(~mask[..., None], 0)
    return pairwise_iou(boxes[:, :-1], boxes[:, 1:])


def overlap_graphs(boxes_xyxy: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The forward and the backward graph of whole batches (equation 3). The second is transposed
    first and normalised then.

    Args:
        boxes_xyxy: [B, T, K, 4].
        mask: True where a box exists, [B, T, K].

    Returns:
        front, the share of box j at t + 1 in box i at t at [b, t, i, j];
        back, the share of box i at t in box j at t + 1 at [b, t, j, i]; float32 [B, T - 1, K, K]
        each. Every row sums to 1, or to 0 where its box overlaps none.
    """
    sigma = overlaps(boxes_xyxy, mask)
    return _normalised(sigma), _normalised(sigma.transpose(-1, -2))


def _normalised(sigma: Tensor) -> Tensor:
    """Rows divided by their sums; zero rows stay zero."""
    return sigma / sigma.sum(dim=-1, keepdim=True).clamp(min=_TINY)


def gather_next(front: Tensor, nodes: Tensor) -> Tensor:
    """The product of the forward graph with the nodes: what each node collects from the boxes of
    the next frame that it overlaps.

    Args:
        front: [B, T - 1, K, K].
        nodes: [B, T, K, D].

    Returns:
        [B, T, K, D]; zero in the last frame.
    """
    return F.pad(front @ nodes[:, 1:], (0, 0, 0, 0, 0, 1))


def gather_previous(back: Tensor, nodes: Tensor) -> Tensor:
    """The product of the backward graph with the nodes, [B, T, K, D]: see `gather_next`; zero in
    the first frame.
    """
    return F.pad(back @ nodes[:, :-1], (0, 0, 0, 0, 1, 0))


def dense_graphs(front: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Both graphs as the paper writes them, [B, N, N] each with node t * K + k. For tests and
    measurements; no model makes them.
    """
    batch, pairs, boxes = front.shape[:3]
    dense = [front.new_zeros(batch, pairs + 1, boxes, pairs + 1, boxes) for _ in range(2)]
    for t in range(pairs):
        dense[0][:, t, :, t + 1] = front[:, t]
        dense[1][:, t + 1, :, t] = back[:, t]
    return dense[0].flatten(3).flatten(1, 2), dense[1].flatten(3).flatten(1, 2)
