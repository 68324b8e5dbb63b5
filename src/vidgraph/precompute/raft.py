"""torchvision's RAFT (Teed and Deng, ECCV 2020), as a method of optical flow. It takes seconds per
frame on a CPU.

Shapes: H W pixels of a frame, H' W' those that the network sees.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

from vidgraph.precompute.network_weights import PublishedWeights
from vidgraph.precompute.sources import reduced

_WEIGHTS = PublishedWeights(
    Raft_Large_Weights.C_T_SKHT_V2,
    "raft",
    "raft_large",
    "use --method dis, tvl1 or farneback, which need none",
)  # trained on FlyingChairs, FlyingThings3D, then Sintel, KITTI and HD1K
_STEP, _LEAST_SIDE = 8, 128  # sides that the network takes: multiples of 8, and at least 16 of them
_UPDATES = 12  # torchvision's own default


class Raft:
    """The large RAFT with 12 updates.

    Args:
        weights: None for torchvision's, a file with them, or `random` (the same each time, for
            tests).
        short_side: frames are reduced to this many pixels of the shorter side; None: not.

    Raises:
        WeightsError: the weights are missing or are not those of this network.
    """

    offsets: tuple[int, ...] = (1,)

    def __init__(self, weights: str | None = None, short_side: int | None = None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = raft_large(weights=None)
        _WEIGHTS.fill(network, weights)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network, self._short_side = network.eval().to(self._device), short_side

    def prepare(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The frame, reduced, as the network takes it: RGB from -1 to 1, [1, 3, H, W]."""
        smaller = pixels if self._short_side is None else reduced(pixels, self._short_side)
        return (
            torch.from_numpy(smaller.copy()).to(self._device).permute(2, 0, 1)[None].float() / 127.5
            - 1
        )

    def field(self, frame: Tensor, following: Tensor) -> NDArray[np.float32]:
        """See `Estimator.field`."""
        height, width = frame.shape[-2:]
        margin = [0, _padded(width) - width, 0, _padded(height) - height]
        with torch.inference_mode():
            both = [
                F.pad(image, margin, mode="replicate") for image in (frame, following)
            ]  # [1, 3, H', W']
            flow = self._network(*both, num_flow_updates=_UPDATES)[-1]  # [1, 2, H', W']
        return flow[0, :, :height, :width].permute(1, 2, 0).float().cpu().numpy()


def weights_name(weights: str | None) -> str:
    """What a store remembers of the weights; see `PublishedWeights.name`."""
    return _WEIGHTS.name(weights)


def _padded(side: int) -> int:
    return max(_LEAST_SIDE, -(-side // _STEP) * _STEP)
