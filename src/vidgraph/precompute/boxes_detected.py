"""Boxes of a detector of COCO's 80 classes: YOLOX-nano, through onnxruntime.

Source: YOLOX: Exceeding YOLO Series in 2021, arXiv 2107.08430; weights of Megvii, Apache-2.0.

Shapes: H W pixels, A cells of all grids (3549), n boxes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.ops import batched_nms

from vidgraph.errors import WeightsError
from vidgraph.precompute.onnx import cpu_session
from vidgraph.util import cache_folder

# The 80 of 90 names that have boxes, in their usual order.
COCO_CLASSES = [
    name
    for name in FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    if name not in ("__background__", "N/A")
]
WEIGHTS_URL = (
    "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_nano.onnx"
)
_PUBLISHED = "c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d"
# The published file, and an earlier export of the same network.
_KNOWN = (_PUBLISHED, "695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14")

_SIDE, _STRIDES, _GREY = 416, (8, 16, 32), 114  # input, grids of the output, and the margin
_LEAST_SCORE = 0.3
_NMS_IOU = 0.45  # as in the authors' demo: of two boxes of a class, the one of lower score goes


class Detector:
    """YOLOX-nano; a `FrameMethod`.

    Args:
        weights: as for `detector_weights`.

    Raises:
        WeightsError: see `detector_weights`.
    """

    offsets: tuple[int, ...] = ()

    def __init__(self, weights: str | None = None) -> None:
        # One thread, so that the number of cores changes no bit; videos are done in parallel.
        cv2.setNumThreads(1)
        self._session = cpu_session(detector_weights(weights)[0], threads=1)
        self._input = self._session.get_inputs()[0].name

    def prepare(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """The frame as the network takes it: BGR from 0 to 255, the longer side 416, in the top
        left of grey, [1, 3, 416, 416]; and the size of the frame in it, rows and columns."""
        scale = _SIDE / max(pixels.shape[:2])
        height, width = (max(1, int(side * scale)) for side in pixels.shape[:2])
        image = np.full((_SIDE, _SIDE, 3), _GREY, np.uint8)
        image[:height, :width] = cv2.resize(pixels, (width, height))
        return np.asarray(cv2.dnn.blobFromImage(image, swapRB=True), np.float32), (height, width)

    def compute(
        self,
        frame: tuple[NDArray[np.float32], tuple[int, int]],
        neighbours: Sequence[object] = (),
    ) -> NDArray[np.float32]:
        """Boxes as fractions of the frame, scores and classes, highest score first, [n, 6]."""
        image, (height, width) = frame
        rows = detections(self._session.run(None, {self._input: image})[0][0])
        rows[:, :4] = (rows[:, :4] / np.array([width, height, width, height])).clip(0, 1)
        return rows[(rows[:, 2:4] > rows[:, :2]).all(1)]  # not those in the margin


def detections(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network found.

    Args:
        output: for each cell of the grids, row by row, x and y from the cell's corner and the
            logarithms of width and height, all in strides; the probabilities of an object, and of
            the classes of one, [A, 85].

    Returns:
        Corners in pixels of the input, score, class; highest score first, [n, 6].
    """
    likely = output[:, 4] > _LEAST_SCORE  # few, and no score is higher than its objectness
    output, corners, strides = output[likely], *(column[likely] for column in _cells())
    centres = (output[:, :2] + corners) * strides
    halves = np.exp(output[:, 2:4]) * strides / 2
    classes = output[:, 5:].argmax(1)
    scores = output[:, 4] * output[:, 5:].max(1)
    rows = np.column_stack([centres - halves, centres + halves, scores, classes])
    rows = rows[scores > _LEAST_SCORE].astype(np.float32)
    boxes, of_scores, of_classes = torch.from_numpy(rows).split([4, 1, 1], dim=1)
    return rows[batched_nms(boxes, of_scores[:, 0], of_classes[:, 0], _NMS_IOU).numpy()]


@cache
def _cells() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row of each cell of the three grids, [A, 2], and its stride in pixels, [A, 1]."""
    corners, strides = [], []
    for stride in _STRIDES:
        y, x = np.mgrid[: _SIDE // stride, : _SIDE // stride]
        corners.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(strides).astype(np.float32)


def detector_weights(weights: str | None) -> tuple[Path, str]:
    """The file of weights and its SHA-256.

    Args:
        weights: the file; None: the one in the cache, fetched from its publisher on first use.

    Raises:
        WeightsError: there is no such file, it is another one than YOLOX-nano, or it cannot be
            fetched.
    """
    path = cache_folder() / "yolox_nano.onnx" if weights is None else Path(weights)
    try:
        if weights is None and not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(WEIGHTS_URL, str(path), _PUBLISHED, progress=False)
            print(f"{path}: YOLOX-nano (Apache-2.0), from {WEIGHTS_URL}", file=sys.stderr)
        digest = sha256(path.read_bytes()).hexdigest()
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: the detector's weights cannot be read or fetched ({error}); download "
            f"{WEIGHTS_URL} and put it there, or give it with --weights FILE"
        ) from error
    if digest not in _KNOWN:
        raise WeightsError(
            f"{path}: is not YOLOX-nano as published (its SHA-256 begins with {digest[:8]}); "
            f"download {WEIGHTS_URL} in its place"
        )
    return path, digest
