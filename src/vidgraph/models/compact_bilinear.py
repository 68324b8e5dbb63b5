"""Compact bilinear fusion: products of all channels of several inputs with each other, sketched
into one vector.

Sources: Spatiotemporal Pyramid Network (CVPR 2017), "spatiotemporal compact bilinear fusion";
    Compact Bilinear Pooling (CVPR 2016);
Fast and Scalable Polynomial Kernels via Explicit Feature Maps (KDD 2013), whose theorem it is.
docs/departures.md has our choices.

Shapes: k inputs, n channels of an input, d outputs, ... any leading shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vidgraph.errors import RecipeError, nearest
from vidgraph.models.norms import full_precision

Post = Literal["none", "ssqrt", "ssqrt_l2", "l2"]

# Small beside what features give, and large enough that the slope at exact zeros, 1 / sqrt(eps),
# harms no training.
_EPS = 1e-4


class CompactBilinear(nn.Module):
    """Sketch of the outer product of k vectors: z = irfft(rfft(psi_1 x_1) * ... * rfft(psi_k x_k)).

    psi_i is a count sketch: channel a of input i is added, times its sign s_i(a), to bucket h_i(a)
    of d. The circular convolution of the sketches, which is the product of their spectra, is the
    sketch of the outer product:

        z[j] = sum over all (a_1 .. a_k) with h_1(a_1) + ... + h_k(a_k) = j mod d of the product of
        s_i(a_i) x_i(a_i)

    so that <z, z'> is <x_1, x'_1> ... <x_k, x'_k> in expectation over h and s. They are drawn once
    for each input by itself, from the seed and the place of the input alone, are not learned, and
    are saved with the weights. Inputs that shared them would be biased.

    Fourier transforms know no bf16, and the product of three spectra passes the largest half: all
    is computed in float32, or in float64 for such inputs.

    Args:
        in_dims: channels of each input (n), one or more; they may differ.
        out_dim: d.
        seed: of h and s; the global random state is neither used nor changed.
        post: what follows: "none"; "ssqrt", x / sqrt(abs(x) + eps), the signed square root with a
            finite slope at zero; "l2", unit length; "ssqrt_l2", both, as compact bilinear pooling
            has it.
        pre_l2: inputs are brought to unit length first, so that the output's scale is that of one
            product and not of k features.
        scale: factor of the output; with "l2", sqrt(d) makes its channels as large as those of a
            normalised map.
        deterministic: sketches by a matrix product instead of additions into buckets, whose order
            CUDA leaves open. Slower on a CPU, where both are deterministic.

    Raises:
        RecipeError: no inputs, sizes below one, or another `post`.
    """

    def __init__(
        self,
        in_dims: Sequence[int],
        out_dim: int,
        seed: int = 0,
        post: Post = "none",
        pre_l2: bool = False,
        scale: float = 1.0,
        deterministic: bool = False,
    ) -> None:
        super().__init__()
        if not in_dims or min(*in_dims, out_dim) < 1:
            raise RecipeError(
                f"compact bilinear fusion of {list(in_dims)} channels into {out_dim}: give one "
                "input or more, sizes from 1"
            )
        if post not in get_args(Post):
            raise RecipeError(f"post: there is no {post!r}{nearest(str(post), get_args(Post))}")
        self.in_dims, self.out_dim, self.post = tuple(in_dims), out_dim, post
        self.pre_l2, self.scale, self.deterministic = pre_l2, scale, deterministic
        for i, size in enumerate(self.in_dims):
            buckets, signs = _draw(size, out_dim, seed, i)
            self.register_buffer(f"buckets_{i}", buckets)
            self.register_buffer(f"signs_{i}", signs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Fuses k inputs.

        Args:
            *inputs: [..., n] each, channels last. Leading shapes broadcast: a pooled vector [B, 1,
                n] beside a map [B, N, n] is transformed once per sample.

        Returns:
            [..., d]: float32 under autocast, else of the inputs' type.

        Raises:
            ValueError: another number of inputs or of channels.
        """
        if tuple(x.shape[-1] for x in inputs) != self.in_dims:
            raise ValueError(
                f"compact bilinear fusion takes {self.in_dims} channels, last, not "
                f"{[list(x.shape) for x in inputs]}"
            )
        with full_precision(inputs[0]):
            # The product of all spectra: [..., d // 2 + 1], complex
            product = self._spectrum(0, inputs[0])
            for i in range(1, len(inputs)):
                product = product * self._spectrum(i, inputs[i])
            # Back: [..., d]; n is said, since an odd d cannot be told from the spectrum
            fused = _after(torch.fft.irfft(product, n=self.out_dim), self.post)
            fused = fused if self.scale == 1 else fused * self.scale
        result: Tensor = fused if _autocast(inputs[0]) else fused.to(inputs[0].dtype)
        return result

    def of_maps(self, *maps: Tensor) -> Tensor:
        """The same with channels first: maps [B, n, H, W], or vectors [B, n] that are seen at every
        place, to a map [B, d, H, W].
        """
        last = [x.movedim(1, -1) if x.dim() == 4 else x[:, None, None] for x in maps]
        fused: Tensor = self(*last)
        return fused.movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"{list(self.in_dims)} -> {self.out_dim}, post={self.post}"

    def _spectrum(self, i: int, x: Tensor) -> Tensor:
        """Of the count sketch of input i: [..., n] to [..., d // 2 + 1]."""
        wide = x if x.dtype == torch.float64 else x.float()
        wide = _unit_length(wide) if self.pre_l2 else wide
        buckets, signs = (
            self.get_buffer(f"buckets_{i}"),
            self.get_buffer(f"signs_{i}").to(wide.dtype),
        )
        spectrum: Tensor = torch.fft.rfft(
            count_sketch(wide, buckets, signs, self.out_dim, self.deterministic)
        )
        return spectrum


def count_sketch(
    x: Tensor, buckets: Tensor, signs: Tensor, size: int, deterministic: bool = False
) -> Tensor:
    """psi(x)[j] = sum over the channels a with h(a) = j of s(a) x(a).

    Args:
        x: [..., n].
        buckets: h, int64 [n].
        signs: s, -1 or 1, [n].
        size: number of buckets (d).
        deterministic: by a matrix product.

    Returns:
        [..., d].
    """
    if deterministic:
        matrix = x.new_zeros(len(buckets), size)
        matrix[torch.arange(len(buckets), device=x.device), buckets] = signs
        return x @ matrix
    return x.new_zeros(*x.shape[:-1], size).index_add_(-1, buckets, x * signs)


def signed_sqrt(x: Tensor) -> Tensor:
    """x / sqrt(abs(x) + eps): sign(x) sqrt(abs(x)) but for the smallest values, whose slope would
    have no bound.
    """
    return x * torch.rsqrt(x.abs() + _EPS)


def _unit_length(x: Tensor) -> Tensor:
    """The last axis at length 1, and zero where it is zero."""
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + _EPS**2)


def _after(x: Tensor, post: Post) -> Tensor:
    x = signed_sqrt(x) if post in ("ssqrt", "ssqrt_l2") else x
    return _unit_length(x) if post in ("l2", "ssqrt_l2") else x


def _draw(size: int, out_dim: int, seed: int, place: int) -> tuple[Tensor, Tensor]:
    """Buckets and signs of one input: uniform, and other ones for every seed and place."""
    digest = hashlib.sha256(f"{seed}/{place}".encode()).digest()
    generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:7], "big"))
    buckets = torch.randint(out_dim, (size,), generator=generator, device="cpu")
    signs = torch.randint(2, (size,), generator=generator, device="cpu") * 2.0 - 1
    device = torch.empty(
        0
    ).device  # where the rest of the model is being built, such as the meta device
    return buckets.to(device), signs.to(device)


def _autocast(x: Tensor) -> bool:
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
