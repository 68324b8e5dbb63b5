"""Frozen networks on a CPU: milliseconds of processor time per frame in onnxruntime, EfficientNet-
Lite0 against torch and YOLOX-nano against OpenCV's DNN, one thread, in one run.

    python benchmarks/eyes.py [--detector yolox_nano.onnx] [--repeats 15]

Without `--detector`, its weights are those in the cache, or are fetched. `differ by`: the largest
difference of the outputs, as a share of the largest value.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import cv2
import numpy as np
import torch
from timing import interleaved_medians

from vidgraph.backbones.image import TimmNetwork, TimmOptions
from vidgraph.precompute.boxes_detected import Detector, detector_weights
from vidgraph.precompute.onnx import cpu_session, frozen_on_cpu

BATCHES = (1, 4, 16)


def compare(
    what: str, runs: Mapping[str, Callable[[], np.ndarray]], frames: int, args: argparse.Namespace
) -> None:
    """Prints one row; the second of two runs is held against the first."""
    fast, slow = runs
    outputs = [run() for run in runs.values()]
    error = np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[1]).max()
    ms = {name: 1e3 * t / frames for name, t in interleaved_medians({**runs}, args).items()}
    print(
        f"{what:<34}{fast} {ms[fast]:5.1f} ms   {slow} {ms[slow]:5.1f} ms   "
        f"ratio {ms[slow] / ms[fast]:4.2f}   differ by {error:.0e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detector", help="YOLOX-nano's weights")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    args.clock, args.device = "cpu", "cpu"
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    compare_networks(args)
    compare_detectors(args)


def compare_networks(args: argparse.Namespace) -> None:
    network = TimmNetwork(TimmOptions("tf_efficientnet_lite0"), 3, (224, 224)).eval()
    network.load_weights()
    frozen = frozen_on_cpu(network, torch.zeros(1, 3, 224, 224), "tf_efficientnet_lite0@head", 1)

    def by_torch(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(images)).numpy()

    for batch in BATCHES:
        images = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32)
        runs = {"onnxruntime": partial(frozen, images), "torch": partial(by_torch, images)}
        compare(f"Lite0@head, 224 x 224, batch {batch}", runs, batch, args)


def compare_detectors(args: argparse.Namespace) -> None:
    weights = detector_weights(args.detector)[0]
    frame = np.random.default_rng(0).integers(0, 256, (256, 340, 3), np.uint8)
    image, _ = Detector(str(weights)).prepare(frame)
    session, theirs = cpu_session(weights, 1), cv2.dnn.readNetFromONNX(str(weights))
    name = session.get_inputs()[0].name

    def by_opencv() -> np.ndarray:
        theirs.setInput(image)
        return theirs.forward()

    def by_onnxruntime() -> np.ndarray:
        return session.run(None, {name: image})[0]

    runs = {"onnxruntime": by_onnxruntime, "OpenCV": by_opencv}
    compare("YOLOX-nano, 416 x 416", runs, 1, args)


if __name__ == "__main__":
    main()
