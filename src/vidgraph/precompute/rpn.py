"""The region proposal network of torchvision's COCO detector, as a source of boxes (the STRG paper,
section 3: a class-agnostic RPN).

torchvision's network was trained together with its detector; the paper's (Detectron's) was trained
as an RPN alone.

Shapes: H W pixels, n boxes of one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from vidgraph.precompute.network_weights import PublishedWeights
from vidgraph.precompute.sources import Boxes

_COCO = PublishedWeights(
    FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    "the rpn",
    "fasterrcnn_resnet50_fpn",
    "use --source motion or selective-search, which need none",
)
_COCO_CLASSES = 91
_LONG_OVER_SHORT = 1333 / 800  # the longer side is no more than this times the shorter side's size


class RegionProposals:
    """ResNet-50-FPN up to its RPN: anchors of 32 to 512 pixels on five levels, the best 1,000 of
    each, overlaps above 0.7 removed per level, then all by objectness.

    Args:
        weights: None for torchvision's COCO weights, a file with them, or `random` (the same each
            time, for tests).
        short_side: pixels that the frame's shorter side is resized to; 800 as in training.

    Raises:
        WeightsError: the weights are missing or are not those of this network.
    """

    offsets: tuple[int, ...] = ()

    def __init__(self, weights: str | None = None, short_side: int = 800) -> None:
        detector = build_detector(weights, short_side)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._transform, self._backbone, self._rpn = (
            part.to(self._device) for part in (detector.transform, detector.backbone, detector.rpn)
        )

    def prepare(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The frame as the network takes it: RGB in [0, 1], [3, H, W]. Its statistics are taken out
        by the network's own transform.
        """
        return torch.from_numpy(pixels.copy()).to(self._device).permute(2, 0, 1).float() / 255

    def propose(self, frame: Tensor, neighbours: Sequence[Tensor]) -> tuple[Boxes, Boxes]:
        """See `BoxSource.propose`; up to 1,000 boxes, scores are objectness."""
        with torch.inference_mode():
            images, _ = self._transform([frame])
            boxes, scores = self._filtered(images, list(self._backbone(images.tensors).values()))
            height, width = images.image_sizes[0]  # of the resized frame, without the padding
            fractions = boxes / boxes.new_tensor([width, height, width, height])
        return fractions.float().cpu().numpy(), scores.float().cpu().numpy()

    def _filtered(self, images: Any, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What the RPN's own `forward` does, with the scores that it drops: boxes in resized pixels
        [n, 4] and objectness [n].
        """
        rpn = self._rpn
        objectness, deltas = rpn.head(features)
        anchors, counts = (
            rpn.anchor_generator(images, features),
            [level[0].numel() for level in objectness],
        )
        objectness, deltas = (
            _one_row_per_anchor(levels, size) for levels, size in ((objectness, 1), (deltas, 4))
        )
        proposals = rpn.box_coder.decode(deltas, anchors).view(1, -1, 4)
        (boxes,), (scores,) = rpn.filter_proposals(
            proposals, objectness, images.image_sizes, counts
        )
        return boxes, scores


def _one_row_per_anchor(levels: Sequence[Tensor], size: int) -> Tensor:
    """Maps [1, A * size, h, w] of all levels as rows in the order of the anchors: level, row,
    column, anchor; [rows, size].
    """
    rows = [
        level.view(-1, size, *level.shape[2:]).permute(2, 3, 0, 1).reshape(-1, size)
        for level in levels
    ]
    return torch.cat(rows)


def build_detector(weights: str | None, short_side: int = 800) -> FasterRCNN:
    """torchvision's detector without its classifying half, in test mode.

    Raises:
        WeightsError: see `RegionProposals`.
    """
    long_side = round(_LONG_OVER_SHORT * short_side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None)
        detector = FasterRCNN(backbone, _COCO_CLASSES, min_size=short_side, max_size=long_side)
    detector.roi_heads = nn.Identity()  # a third of the weights, and not asked
    for module in detector.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0  # as the COCO weights were trained
    _COCO.fill(detector, weights)
    return detector.eval()


def weights_name(weights: str | None) -> str:
    """What a store remembers of the weights; see `PublishedWeights.name`."""
    return _COCO.name(weights)
