"""Frozen networks on a CPU through onnxruntime, in a third of torch's time.

A network is exported on first use. The file is kept in the cache under a hash of all that it was
made from, and whenever it is loaded its maps are compared with torch's.

Shapes: N images, C D channels, H W pixels, h w map.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from hashlib import sha256
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from vidgraph.util import atomic_write, available_cores, cache_folder

Maps = NDArray[np.float32]
# Images [N, C, H, W] to maps [N, D, h, w].
ImagesToMaps = Callable[[NDArray[np.float32]], Maps]

_OPSET = 18
_TOLERANCE = 1e-4  # of the largest magnitude of a map
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")


def frozen_on_cpu(
    network: nn.Module, example: Tensor, key: str, threads: int | None = None
) -> ImagesToMaps:
    """An image network that learns no more, as a function of arrays.

    Where onnxruntime cannot do what the network does, or not to 1e-4 of the largest magnitude of
    its maps, one line on standard error says so and torch computes them, on torch's threads.

    Args:
        network: normalised images [N, C, H, W] to maps [N, D, h, w], on the CPU, in test mode.
        example: any images of the size that it will be shown, float32 [1, C, H, W]. The number of
            images is free.
        key: what people call it, such as `tf_efficientnet_lite0@head`; begins the file's name.
        threads: of onnxruntime; None: one per available core.

    Returns:
        A function from float32 [N, C, H, W] to float32 [N, D, h, w].
    """
    assert not any(module.training for module in network.modules())

    def by_torch(images: NDArray[np.float32]) -> Maps:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(np.ascontiguousarray(images))).numpy())

    name = re.sub(r"[^\w.@-]+", "_", key)
    path = cache_folder() / "onnx" / f"{name}-{_digest(network, example, key)[:16]}.onnx"
    probes = _probes(tuple(example.shape[1:]))
    wanted = [by_torch(images) for images in probes]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # processes that start together export once
            if path.is_file():
                try:
                    return _checked(path, threads, probes, wanted)
                except Exception:  # damaged, or right on another machine only: made anew
                    path.unlink()
            with atomic_write(path) as temporary:
                _export(network, example, temporary)
                return _checked(temporary, threads, probes, wanted)
    except Exception as error:  # exporter and runtime have no common class of errors
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        line = f"{key} runs in torch, which is slower: onnxruntime does not take it ({reason})"
        print(f"vidgraph: warning: {line}", file=sys.stderr)
        return by_torch


def cpu_session(model: Path, threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession` of a file. Its threads sleep while they wait.

    Args:
        model: the .onnx file.
        threads: of one computation; None: one per available core.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # Spinning threads take the cores of the processes that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.read_bytes(), options, providers=["CPUExecutionProvider"]
    )


def _checked(
    model: Path, threads: int | None, probes: Sequence[NDArray[np.float32]], wanted: Sequence[Maps]
) -> ImagesToMaps:
    """A file as a function of images.

    Raises:
        ValueError: its maps of the probes are not those that are wanted.
    """
    session = cpu_session(model, threads)
    name = session.get_inputs()[0].name

    def run(images: NDArray[np.float32]) -> Maps:
        return np.asarray(session.run(None, {name: np.ascontiguousarray(images)})[0])

    for images, expected in zip(probes, wanted, strict=True):
        found = run(images)
        if found.shape != expected.shape:
            raise ValueError(f"maps of {list(found.shape)}, not {list(expected.shape)}")
        error = np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30)
        if not error <= _TOLERANCE:
            raise ValueError(f"its maps differ from torch's by {error:.1e} of the largest value")
    return run


def _export(network: nn.Module, example: Tensor, path: Path) -> None:
    """Writes a network for any number of images of one size."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # it prints graphs as it fails
        torch.onnx.export(
            network,
            (example[:1].repeat(2, 1, 1, 1),),  # the exporter takes a single image for a constant
            str(path),
            opset_version=_OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("images")},),
            external_data=False,
            verbose=False,
        )


def _probes(shape: tuple[int, ...]) -> list[NDArray[np.float32]]:
    """Normalised images to compare by: noise [3, C, H, W]; and, since networks answer otherwise to
    them, images whose amplitude falls with frequency as in photographs, [2, C, H, W]."""
    generator, (height, width) = np.random.default_rng(0), shape[1:]
    noise = generator.standard_normal((3, *shape), np.float32)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = np.inf  # no mean
    grey = np.fft.ifft2(np.fft.fft2(noise[:2, :1]) / frequency).real  # [2, 1, H, W]
    grey = np.broadcast_to(grey / grey.std(), (2, *shape))
    return [noise, grey.astype(np.float32)]


def _digest(network: nn.Module, example: Tensor, key: str) -> str:
    """SHA-256 of all that a file is made from, but for the code of the network."""
    versions = [f"{name} {version(name)}" for name in _LIBRARIES]
    digest = sha256(repr((key, str(network), [*example.shape[1:]], versions, _OPSET)).encode())
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
