"""Similarity graph: every region of a clip attends to every other, in all frames.

Source: Videos as Space-Time Region Graphs (ECCV 2018), section 4.2.

Shapes: B batch, N nodes of a clip, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.models.norms import full_precision


class SimilarityGraph(nn.Module):
    """Softmax of learned products: F(x_i, x_j) = (w x_i)^T (w' x_j), and G_ij its softmax over j
    (equations 1 and 2).

    The weights start small, N(0, 0.01): at torch's own start a node of 512 channels would give most
    of its attention to one other node before anything is learned, and the softmax would pass hardly
    any gradient back.

    Args:
        width: of the nodes (D).
        scale: divide the products by the root of the width; the paper does not.
    """

    def __init__(self, width: int, scale: bool = False) -> None:
        super().__init__()
        self.scale = width**-0.5 if scale else 1.0
        self.query = nn.Linear(width, width, bias=False)  # w
        self.key = nn.Linear(width, width, bias=False)  # w'
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal of deviation 0.01, as a convolution of the non-local networks starts."""
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """Who resembles whom.

        Args:
            nodes: [B, N, D].
            mask: True where a node exists, [B, N].

        Returns:
            Weight of node j in node i at [b, i, j], float32 [B, N, N]. Rows of nodes that exist sum
            to 1; the rows and columns of all others are zero.
        """
        with full_precision(
            nodes
        ):  # products of 512 channels: bf16 would move a logit by more than a softmax forgives
            query = F.linear(nodes.float(), self.query.weight.float())  # [B, N, D]
            key = F.linear(nodes.float(), self.key.weight.float())  # [B, N, D]
            logits = query @ key.transpose(1, 2) * self.scale  # [B, N, N]
            # The least number and not minus infinity: a clip without any node would give NaN.
            logits = logits.masked_fill(~mask[:, None, :], torch.finfo(logits.dtype).min)
            return logits.softmax(dim=-1) * (mask[:, :, None] & mask[:, None, :])
