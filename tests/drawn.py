"""What tests draw: clips of noise, and the tensors of golden networks by their foreign names."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from vidgraph.records import InputSpec


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """Uniform, by name. Gains and variances are positive, kernels keep the scale."""
    draw = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return torch.from_numpy(draw.uniform(0.5, 1.5, shape).astype(np.float32))
    high = 0.3
    if len(shape) > 1:
        high = float(np.sqrt(3 / np.prod(shape[1:]))) * (0.2 if len(shape) == 2 else 1)
    return torch.from_numpy(draw.uniform(-high, high, shape).astype(np.float32))


def noise_clips(spec: InputSpec, batch: int = 2) -> dict[str, Tensor]:
    """The frames [B, C, T, H, W] and flow stacks [B, T, S, 2 L, H, W] that a model takes."""
    draw, size = torch.Generator().manual_seed(0), (spec.height, spec.width)
    found: dict[str, Tensor] = {}
    if spec.channels:
        shape = (batch, spec.channels, spec.num_frames, *size)
        found["video"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    if spec.flow_length:
        stacks = (batch, spec.num_frames, spec.num_stacks, 2 * spec.flow_length, *size)
        found["flow"] = torch.randint(0, 256, stacks, dtype=torch.uint8, generator=draw)
    return found
