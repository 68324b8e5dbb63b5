"""Compact bilinear fusion: products of all channels of several inputs, sketched into one vector.

Sources: Spatiotemporal Pyramid Network (CVPR 2017), "spatiotemporal compact bilinear fusion";
    Compact Bilinear Pooling (CVPR 2016); Fast and Scalable Polynomial Kernels via Explicit Feature
    Maps (KDD 2013), whose theorem it is. docs/departures.md has our choices.

Shapes: k inputs, n channels of an input, d outputs, ... any leading shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from vidgraph.models.norms import full_precision

Post = Literal["none", "ssqrt", "ssqrt_l2", "l2"]

# Small beside what features give, and large enough that the slope at zero, 1 / sqrt(eps), does no
# harm in training.
_EPS = 1e-4


class CompactBilinear(nn.Module):
    """Sketch of the outer product of k vectors: z = irfft(rfft(psi_1 x_1) * ... * rfft(psi_k x_k)).

    psi_i is a count sketch: channel a of input i is added, times its sign s_i(a), to bucket h_i(a)
    of d. The circular convolution of the sketches, which is the product of their spectra, is the
    sketch of the outer product:

        z[j] = sum over all (a_1 .. a_k) with h_1(a_1) + ... + h_k(a_k) = j mod d of the product of
        s_i(a_i) x_i(a_i)

    so that <z, z'> is <x_1, x'_1> ... <x_k, x'_k> in expectation over h and s. They are drawn once
    per input, from the seed and the index of the input alone; they are not learned, and are saved
    with the weights. Inputs that shared them would be biased.

    Fourier transforms do not take bf16, and the product of three spectra exceeds the largest half:
    everything is computed in float32, or in float64 for such inputs.

    Args:
        in_channels: of each input (n), one or more; they may differ.
        out_channels: d.
        seed: of h and s; the global random state is neither used nor changed.
        post: what follows: "none"; "ssqrt", the signed square root; "l2", unit length; "ssqrt_l2",
            both, as in compact bilinear pooling.
        scale: factor of the output; with "l2", sqrt(d) makes its channels as large as those of a
            normalised map.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        seed: int = 0,
        post: Post = "none",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = tuple(in_channels), out_channels
        self.post, self.scale = post, scale
        for i, size in enumerate(self.in_channels):
            buckets, signs = _draw(size, out_channels, seed, i)
            self.register_buffer(f"buckets_{i}", buckets)
            self.register_buffer(f"signs_{i}", signs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """k inputs [..., n], whose leading shapes broadcast, to [..., d]: float32 under autocast,
        else of their type.

        Raises:
            ValueError: another number of inputs or of channels.
        """
        if tuple(x.shape[-1] for x in inputs) != self.in_channels:
            raise ValueError(
                f"compact bilinear fusion takes {self.in_channels} channels, last, not "
                f"{[list(x.shape) for x in inputs]}"
            )
        with full_precision(inputs[0]):
            # The product of all spectra: [..., d // 2 + 1], complex
            product = reduce(torch.mul, (self._spectrum(i, x) for i, x in enumerate(inputs)))
            # Back: [..., d]; n is given, since the spectrum does not tell an odd d from an even one
            fused = torch.fft.irfft(product, n=self.out_channels)
            if "ssqrt" in self.post:
                fused = signed_sqrt(fused)
            if "l2" in self.post:  # zero stays zero
                fused = fused * torch.rsqrt(fused.square().sum(-1, keepdim=True) + _EPS**2)
            fused = fused * self.scale
        kind = inputs[0].device.type
        autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        return fused if autocast else fused.to(inputs[0].dtype)

    def _spectrum(self, i: int, x: Tensor) -> Tensor:
        """Of the count sketch of input i: [..., n] to [..., d // 2 + 1]."""
        wide = x if x.dtype == torch.float64 else x.float()
        buckets, signs = self.get_buffer(f"buckets_{i}"), self.get_buffer(f"signs_{i}")
        sketch = count_sketch(wide, buckets, signs.to(wide.dtype), self.out_channels)
        return torch.fft.rfft(sketch)


def count_sketch(x: Tensor, buckets: Tensor, signs: Tensor, size: int) -> Tensor:
    """psi(x)[j] = sum over the channels a with h(a) = j of s(a) x(a): [..., n] to [..., d].

    Args:
        x: vectors.
        buckets: h, int64 [n].
        signs: s, -1 or 1, [n].
        size: number of buckets (d).
    """
    return x.new_zeros(*x.shape[:-1], size).index_add_(-1, buckets, x * signs)


def signed_sqrt(x: Tensor) -> Tensor:
    """x / sqrt(abs(x) + eps): the signed square root, with a finite slope at zero."""
    return x * torch.rsqrt(x.abs() + _EPS)


def _draw(size: int, out_channels: int, seed: int, index: int) -> tuple[Tensor, Tensor]:
    """Buckets and signs of one input: uniform, and different for every seed and index."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:7], "big"))
    buckets = torch.randint(out_channels, (size,), generator=generator, device="cpu")
    signs = torch.randint(2, (size,), generator=generator, device="cpu") * 2.0 - 1
    device = torch.get_default_device()  # such as the meta device, while a model is only measured
    return buckets.to(device), signs.to(device)
