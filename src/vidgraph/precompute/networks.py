"""torchvision's networks for boxes and flow, with its weights or those of a file.

    RegionProposals    the region proposal network of its COCO detector (the STRG paper, section 3:
                       a class-agnostic RPN; the paper's, Detectron's, was trained as an RPN alone)
    Raft               its large RAFT (Teed and Deng, ECCV 2020); seconds per frame on a CPU

Weights are downloaded once, or come from a file, no code of which can run; `random` ones, the same
each time, are for tests.

Shapes: H W pixels of a frame, H' W' those that a network sees, n boxes of one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN, FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.optical_flow import RAFT, Raft_Large_Weights, raft_large
from torchvision.ops import FrozenBatchNorm2d

from vidgraph.errors import WeightsError
from vidgraph.precompute.frames import reduced
from vidgraph.util import choose_device, read_checkpoint

_RANDOM = "random"
_COCO_CLASSES = 91
_LONG_OVER_SHORT = 1333 / 800  # the longer side is no more than this times the shorter side's size
_STEP, _LEAST_SIDE = 8, 128  # sides that RAFT takes: multiples of 8, and at least 16 of them
_UPDATES = 12  # of RAFT, torchvision's default


@dataclass(frozen=True)
class PublishedWeights:
    """Weights of one network."""

    entry: Any  # torchvision's own, a member of its enumeration
    user: str  # who needs them, such as `the rpn`
    instead: str  # what to do without them

    def name(self, weights: str | None) -> str:
        """What a store remembers of them: torchvision's name, `random`, or the SHA-256 of a file.
        WeightsError: there is no such file, or torchvision's cannot be downloaded.
        """
        if weights is None:
            self._load(None)
            return str(self.entry.name)
        if weights == _RANDOM:
            return _RANDOM
        if not Path(weights).is_file():
            raise WeightsError(f"{weights}: there is no such file; leave out --weights")
        return sha256(Path(weights).read_bytes()).hexdigest()

    def load_into(self, module: nn.Module, weights: str | None) -> None:
        """Gives a network, or a part of one, its weights; `random` changes nothing.
        WeightsError: they are missing, or not those of this network.
        """
        if weights == _RANDOM:
            return
        state, own = self._load(weights), module.state_dict()
        wrong = [key for key in own if getattr(state.get(key), "shape", None) != own[key].shape]
        if wrong:
            what = f"{wrong[0]} and {len(wrong) - 1} more are absent or of another shape"
            file = weights or self.entry.url
            raise WeightsError(f"{file}: holds no weights for {self.user}, {what}")
        module.load_state_dict({key: state[key] for key in own})

    def _load(self, weights: str | None) -> dict[str, Any]:
        if weights is not None:
            return read_checkpoint(weights)
        try:
            return dict(self.entry.get_state_dict(progress=True, check_hash=True))
        except (OSError, RuntimeError) as error:
            what = f"the weights of {self.user} cannot be fetched ({error})"
            how = f"fetch {self.entry.url} elsewhere and give it with --weights FILE"
            raise WeightsError(f"{what}; {how}, or {self.instead}") from error


RPN_WEIGHTS = PublishedWeights(
    FasterRCNN_ResNet50_FPN_Weights.COCO_V1, "the rpn", "use --source motion, which needs none"
)
RAFT_WEIGHTS = PublishedWeights(
    Raft_Large_Weights.C_T_SKHT_V2, "raft", "use --method dis or tvl1, which need none"
)  # trained on FlyingChairs, FlyingThings3D, then Sintel, KITTI and HD1K


class RegionProposals:
    """ResNet-50-FPN up to its RPN: anchors of 32 to 512 pixels on five levels, the best 1,000 of
    each, overlaps above 0.7 removed per level, then all by objectness. Frames are resized to
    `short_side` pixels of their shorter side, 800 in its training.
    """

    offsets: tuple[int, ...] = ()

    def __init__(self, weights: str | None = None, short_side: int = 800) -> None:
        self._device = choose_device(None)
        self._detector = build_detector(weights, short_side).to(self._device)
        self._filter = self._detector.rpn.filter_proposals
        self._detector.rpn.filter_proposals = self._keep_scores
        self._scores = torch.zeros(0)

    def prepare(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The frame as the network takes it: RGB in [0, 1], [3, H, W]."""
        return torch.from_numpy(pixels.copy()).to(self._device).permute(2, 0, 1).float() / 255

    def compute(self, frame: Tensor, neighbours: Sequence[Tensor]) -> NDArray[np.float32]:
        """Up to 1,000 boxes as fractions of the frame, and their objectness, [n, 5]."""
        with torch.inference_mode():
            images, _ = self._detector.transform([frame])
            (boxes,), _ = self._detector.rpn(images, self._detector.backbone(images.tensors))
            height, width = images.image_sizes[0]  # of the resized frame, without the padding
            fractions = boxes / boxes.new_tensor([width, height, width, height])
            rows = torch.cat([fractions, self._scores[:, None]], dim=1)
        return rows.float().cpu().numpy()

    def _keep_scores(self, *args: Any) -> Any:
        """torchvision's RPN drops the scores that its last step gives."""
        boxes, (self._scores,) = self._filter(*args)
        return boxes, [self._scores]


def build_detector(weights: str | None, short_side: int = 800) -> FasterRCNN:
    """torchvision's detector without its classifying half, in test mode."""
    long_side = round(_LONG_OVER_SHORT * short_side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None)
        detector = FasterRCNN(backbone, _COCO_CLASSES, min_size=short_side, max_size=long_side)
    detector.roi_heads = nn.Identity()  # a third of the weights, and not asked
    for module in detector.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0  # as the COCO weights were trained
    RPN_WEIGHTS.load_into(detector, weights)
    return detector.eval()


class Raft:
    """The large RAFT with 12 updates, on frames reduced to `short_side` if that is given."""

    offsets: tuple[int, ...] = (1,)

    def __init__(self, weights: str | None = None, short_side: int | None = None) -> None:
        self._device = choose_device(None)
        self._network, self._short_side = _build_raft(weights).to(self._device), short_side

    def prepare(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The frame, reduced, as the network takes it: RGB from -1 to 1, [1, 3, H, W]."""
        frame = torch.from_numpy(reduced(pixels, self._short_side).copy()).to(self._device)
        return frame.permute(2, 0, 1)[None].float() / 127.5 - 1

    def compute(self, frame: Tensor, neighbours: Sequence[Tensor]) -> NDArray[np.float32]:
        """Motion in pixels up to the next frame, [H, W, 2]."""
        height, width = frame.shape[-2:]
        below, right = (max(_LEAST_SIDE - side, -side % _STEP) for side in (height, width))
        margin = [0, right, 0, below]
        both = [F.pad(image, margin, mode="replicate") for image in (frame, *neighbours)]
        with torch.inference_mode():  # of images [1, 3, H', W']
            flow = self._network(*both, num_flow_updates=_UPDATES)[-1]  # [1, 2, H', W']
        return flow[0, :, :height, :width].permute(1, 2, 0).float().cpu().numpy()


@lru_cache(maxsize=1)  # flow that is computed on the way asks for it with every video
def _build_raft(weights: str | None) -> RAFT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = raft_large(weights=None)
    RAFT_WEIGHTS.load_into(network, weights)
    return network.eval()
