"""How close two computations in single precision must be, whatever the processor's kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_close_to_scale(
    actual: Tensor, expected: Tensor, rel: float = 1e-5, floor: float = 1.0
) -> None:
    """Holds every element to `rel` of the largest magnitude in `expected`.

    Kernels add in different orders (AVX2, AVX-512, one thread or many, another batch size), so an
    element that is small beside the rest differs by the rounding of its neighbours; a tolerance
    relative to itself fails on another processor.

    Args:
        rel: the share of the largest magnitude.
        floor: stands for the largest magnitude where that is smaller: what is added up inside a
            network is of order 1.
    """
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(actual, expected, rtol=0, atol=rel * max(floor, largest))
