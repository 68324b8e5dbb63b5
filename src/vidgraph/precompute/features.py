"""What a frozen backbone makes of videos, computed once per video and stored as float16: its maps
of the whole frames, or its pooled features of things in them, each looked at closely.

The rows of a step of a map are [V, D, h, w]: the clip as it is and, in a store of mirrored clips
too, mirrored (V = 2). Those of things are [V, K, D].

Shapes: V views, C D channels, T frames, T' steps of the map, H W pixels, h w map, K things.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidgraph.errors import DataError
from vidgraph.precompute.boxes import BoxStore
from vidgraph.precompute.extract import Compute, Task
from vidgraph.precompute.store import Header, Method, Store
from vidgraph.records import InputSpec, step_frames
from vidgraph.video.base import Video
from vidgraph.video.views import ViewPlan, read_views

FEATURES, CROPS = "features", "crops"
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
        spec: which clip; with `box_crops` the features of things in it are computed, not its map.
        mirrored: of the mirrored clip too.
        boxes: folder of the store of boxes that things are found in.
    """

    method: Method
    load: Callable[[], FrozenNetwork] = field(compare=False)  # once per process, not per video
    spec: InputSpec
    mirrored: bool = False
    boxes: Path | None = None

    def __hash__(self) -> int:
        return hash(str(self.method))

    @property
    def use_gpu(self) -> bool:
        return torch.cuda.is_available()

    def start(self) -> Compute:
        """See `Job`."""
        spec, plan = self.spec, ViewPlan(mirrored=self.mirrored)
        encode, store = encoder(self.load(), spec), BoxStore(self.boxes) if self.boxes else None

        def compute(
            task: Task, video: Video, counts: Counter[str]
        ) -> tuple[list[int], Iterator[Maps]]:
            boxes_at = store.boxes(task.video).taken_by(spec) if store else None
            clips, indices, regions = read_views(video, spec, plan, 0, boxes_at=boxes_at)
            if regions is None:
                steps = encode(clips).transpose(2, 0, 1, 3, 4)  # [T', V, D, h, w]
            else:
                assert regions.crops is not None
                seen = regions.mask.any(1)  # [V, K]
                clips = regions.crops[seen]  # [n, C, T, H, W]
                found = encode(clips).mean((3, 4), np.float32).transpose(2, 0, 1)  # [T', n, D]
                steps = np.zeros((len(found), *seen.shape, found.shape[2]), np.float16)
                steps[:, seen.numpy()] = found  # [T', V, K, D]
            counts.update(encoded=len(indices) * len(clips))
            shown = step_frames(len(indices), len(steps))
            return indices[shown.numpy()].tolist(), iter(steps)

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


def feature_method(
    backbone: str,
    weights: str,
    spec: InputSpec,
    mirrored: bool = False,
    boxes: Method | None = None,
) -> Method:
    """How maps are made: by which backbone, of which weights (SHA-256), of which clips; or features
    of things, then also from which boxes.
    """
    settings = {"weights": weights, "frames": spec.num_frames, "size": [spec.height, spec.width]}
    if boxes is None:
        settings |= {"fit": spec.fit, "mirrored": mirrored}
        return Method(FEATURES, backbone, _VERSION, settings)
    digest = sha256(json.dumps(boxes.to_dict(), sort_keys=True).encode()).hexdigest()
    settings |= {"things": spec.boxes_per_frame, "boxes": f"{boxes.name} {digest}"}
    return Method(CROPS, backbone, _VERSION, settings | {"mirrored": mirrored})


class ClipStore(Store):
    """A store of what a backbone makes of one clip per video.

    Args:
        folder: as `vidgraph extract features` wrote it.
        kind: `features` or `crops`.

    Raises:
        DataError: the folder is no store of this kind.
    """

    def check(self, wanted: Method) -> None:
        """Refuses those of another backbone, weights, clip or version; of mirrored clips there may
        be some beside.

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

    def steps(self, video: str | Path, mirrored: bool = False) -> tuple[Maps, Header]:
        """What is stored of each step of one video, [T', ...], and of which video and frames, one
        a step.

        Raises:
            DataError: see `Store.load`; or there is nothing of mirrored clips.
        """
        stored = self.load(video)
        if mirrored and not self.method.settings["mirrored"]:
            raise DataError(f"{self.folder}: has no mirrored clips; extract with --mirrored")
        rows = stored.all_rows()  # [T' * V, ...]
        steps = rows.reshape(len(stored.header.frame_indices), -1, *rows.shape[1:])
        return steps[:, int(mirrored)], stored.header


class FeatureStore(ClipStore):
    """A store of feature maps; see `ClipStore`."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, FEATURES)

    def maps(self, video: str | Path, mirrored: bool = False) -> tuple[Maps, Header]:
        """The map of one video [D, T', h, w]; see `ClipStore.steps`."""
        steps, header = self.steps(video, mirrored)
        return steps.transpose(1, 0, 2, 3), header


class CropStore(ClipStore):
    """A store of the features of things, [T', K, D] per video; see `ClipStore.steps`."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, CROPS)
