"""Feature maps of a frozen backbone, computed once per video and stored as float16.

The rows of a step of the map are [V, D, h, w]: the clip as it is and, in a store of mirrored clips
too, mirrored (V = 2).

Shapes: V views, C D channels, T frames, T' steps of the map, H W pixels, h w map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidgraph.errors import DataError
from vidgraph.precompute.extract import Compute, Task
from vidgraph.precompute.store import Header, Method, Store
from vidgraph.records import InputSpec, step_frames
from vidgraph.video.base import Video
from vidgraph.video.views import ViewPlan, read_views

FEATURES = "features"
_VERSION = 1
Maps = NDArray[np.float16]


class FrozenNetwork(NamedTuple):
    """What features are computed by.

    Attributes:
        normalize: of pixels, uint8 [B, C, T, H, W] to float.
        backbone: of normalised clips [B, C, T, H, W] to maps [B, D, T', h, w].
        images: where the backbone works frame by frame: of images [N, C, H, W] to maps
            [N, D, h, w]. On a CPU it runs in onnxruntime.
        name: such as timm:tf_efficientnet_lite0@head.
    """

    normalize: nn.Module
    backbone: nn.Module
    images: nn.Module | None
    name: str


@dataclass(frozen=True)
class FeatureJob:
    """Computes the map of a clip spread over each video; a `Job`.

    Attributes:
        method: see `feature_method`.
        load: gives the network; can be pickled.
        spec: which clip.
        mirrored: of the mirrored clip too.
    """

    method: Method
    load: Callable[[], FrozenNetwork] = field(compare=False)  # so that one start serves all videos
    spec: InputSpec
    mirrored: bool = False

    def __hash__(self) -> int:
        return hash(str(self.method))

    @property
    def use_gpu(self) -> bool:
        return torch.cuda.is_available()

    def start(self) -> Compute:
        """See `Job`."""
        encode, plan = encoder(self.load(), self.spec), ViewPlan(mirrored=self.mirrored)

        def compute(
            task: Task, video: Video, counts: Counter[str]
        ) -> tuple[list[int], Iterator[Maps]]:
            pixels, indices, _ = read_views(video, self.spec, plan, 0)  # [V, C, T, H, W]
            maps = encode(pixels).transpose(2, 0, 1, 3, 4)  # [T', V, D, h, w]
            counts.update(maps=len(maps), encoded=len(indices) * len(pixels))
            shown = step_frames(len(indices), len(maps))
            return indices[shown.numpy()].tolist(), iter(maps)

        return compute


def encoder(network: FrozenNetwork, spec: InputSpec) -> Callable[[Tensor], Maps]:
    """A frozen network as a function of pixels, uint8 [V, C, T, H, W], to maps [V, D, T', h, w].

    On a GPU in bf16; on a CPU image networks run in onnxruntime, others in torch.
    """
    if torch.cuda.is_available():
        normalize, backbone = network.normalize.cuda().eval(), network.backbone.cuda().eval()

        def on_gpu(pixels: Tensor) -> Maps:
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
                return _half(backbone(normalize(pixels.cuda())))

        return on_gpu
    images = network.images
    if images is None:

        def by_torch(pixels: Tensor) -> Maps:
            with torch.inference_mode():
                return _half(network.backbone.eval()(network.normalize(pixels)))

        return by_torch
    from vidgraph.precompute.onnx import frozen_on_cpu

    example = torch.zeros(1, spec.channels, spec.height, spec.width)
    run = frozen_on_cpu(images.eval(), example, network.name, torch.get_num_threads())

    def by_onnx(pixels: Tensor) -> Maps:
        normal = network.normalize(pixels).transpose(1, 2)  # [V, T, C, H, W]
        maps = [run(clip.contiguous().numpy()) for clip in normal]  # [T, D, h, w] each
        return _half(torch.from_numpy(np.stack(maps)).transpose(1, 2))

    return by_onnx


def _half(maps: Tensor) -> Maps:
    return np.asarray(maps.to(torch.float16).cpu().numpy())


def feature_method(backbone: str, weights: str, spec: InputSpec, mirrored: bool) -> Method:
    """How maps are made: by which backbone, of which weights (SHA-256), of which clips."""
    size = [spec.height, spec.width]
    clip = {"frames": spec.num_frames, "size": size, "fit": spec.fit, "mirrored": mirrored}
    return Method(FEATURES, backbone, _VERSION, {"weights": weights, **clip})


class FeatureStore(Store):
    """A store of feature maps.

    Args:
        folder: as `vidgraph extract features` wrote it.

    Raises:
        DataError: the folder is no store of features.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, FEATURES)

    def check(self, wanted: Method) -> None:
        """Refuses maps of another backbone, weights, clip or version; mirrored ones may be beside.

        Raises:
            DataError: they are.
        """
        if self.method != replace(
            wanted, settings=wanted.settings | {"mirrored": self.method.settings["mirrored"]}
        ):
            raise DataError(
                f"{self.folder}: holds {self.method}, and the model takes {wanted}; extract again "
                "into another store"
            )

    def maps(self, video: str | Path, mirrored: bool = False) -> tuple[Maps, Header]:
        """The map of one video [D, T', h, w], and of which video and frames (one a step) it is.

        Raises:
            DataError: see `Store.load`; or there are no mirrored ones.
        """
        stored = self.load(video)
        if mirrored and not self.method.settings["mirrored"]:
            raise DataError(f"{self.folder}: has no mirrored maps; extract with --mirrored")
        rows = stored.all_rows()  # [T' * V, D, h, w]
        steps = rows.reshape(len(stored.header.frame_indices), -1, *rows.shape[1:])
        return steps[:, int(mirrored)].transpose(1, 0, 2, 3), stored.header
