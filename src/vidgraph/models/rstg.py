"""The recurrent space-time graph: time stages (LSTM) alternate with space stages (send, gather,
update).

Source: Recurrent Space-time Graph Neural Networks for Video Understanding (NeurIPS 2019) and its
    authors' code. Where slides and
code differ, the default is the code, and the slides' reading is an option (docs/departures.md).

Shapes: B batch, C channels, T frames, H W map, N nodes, E edges, D width, S stages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.errors import RecipeError
from vidgraph.models import grid
from vidgraph.models.norms import LastAxisBatchNorm, full_precision, make_norm

TimeStages = Literal["all", "final", "none", "only", "homogeneous"]


@dataclass(frozen=True)
class GraphOptions:
    """Which recurrent space-time graph.

    Attributes:
        scales: cells per side of each grid.
        num_stages: space stages (the paper's K).
        time_stages: "all": an LSTM before each space stage and a final one; "final": only the final
            one (paper's 1-temp-stage); "none": no LSTM, the mean over time (Space-Only); "only": no
            space stage (Time-Only); "homogeneous": no LSTM, a node's past self is one more
            neighbour, whose message the same MLP computes.
        attention: "simple": additive, as the authors' SyncMNIST configuration; "dot": products of
            learned projections, as their Something-Something ones; "dot_neighbours": the slides'
            equations 6 and 7, raw products over neighbours.
        mask_non_edges: softmax over true neighbours. The authors' code leaves the others in with
            logit 0.
        position_maps: nodes tell their place when they send (the paper's Positional variant).
        scalewise_update: one update MLP per scale.
        norm: over messages, updates and created nodes: "none", "layer" (all axes jointly) or
            "batch".
        node_batch_norm: batch norm of the created nodes, as the authors do on SyncMNIST.
        readout: "mean" over time (code) or "last" frame (slides).
        moments: of ours: created nodes also hold normalised first moments, that is where in its
            region a feature lies.
        differences: of ours: created nodes also hold their change since the previous frame.
        context: of ours: created nodes also hold what the node of the whole frame holds; the last
            scale must be 1.
        initialisation: "glorot" with zero biases, as the authors; "he": of ours, gain sqrt(2)
            before each ReLU and a forget bias of 1, which keeps about three times as much of a
            clip's signal through three stages.
    """

    scales: tuple[int, ...] = (3, 2, 1)
    num_stages: int = 3
    time_stages: TimeStages = "all"
    attention: Literal["simple", "dot", "dot_neighbours"] = "dot"
    mask_non_edges: bool = False
    position_maps: bool = False
    scalewise_update: bool = False
    norm: Literal["none", "layer", "batch"] = "none"
    node_batch_norm: bool = False
    readout: Literal["mean", "last"] = "mean"
    moments: bool = False
    differences: bool = False
    context: bool = False
    initialisation: Literal["glorot", "he"] = "glorot"

    def __post_init__(self) -> None:
        if self.num_stages < 1:
            raise RecipeError(
                f"num_stages is {self.num_stages}; give at least 1, or time_stages only for a "
                "graph without space stages"
            )
        if not self.scales or min(self.scales) < 1:
            raise RecipeError(
                "scales are cells per side of each grid, at least 1, such as [3, 2, 1], not "
                f"{list(self.scales)}"
            )
        if self.context and self.scales[-1] != 1:
            raise RecipeError(
                "context needs a node of the whole frame: the last of scales is 1, not "
                f"{self.scales[-1]}"
            )


def _keep(module: nn.Module, name: str, fixed: Tensor) -> None:
    """Registers a tensor that is neither learned nor saved, on the device that the module is being
    built on.
    """
    module.register_buffer(name, fixed.to(torch.get_default_device()), persistent=False)


class NodeCreation(nn.Module):
    """Feature map to nodes: means over regions and, if asked, where a feature lies there, how all
    that changes, and the whole frame's.

    Args:
        in_channels: channels of the map (C).
        map_size: rows and columns that filters are kept for; other sizes are allowed and computed
            when met.
        options: which graph.
    """

    means: Tensor
    moments: Tensor

    def __init__(self, in_channels: int, map_size: tuple[int, int], options: GraphOptions) -> None:
        super().__init__()
        self.options, self.map_size = options, map_size
        copies = (
            (3 if options.moments else 1)
            * (2 if options.differences else 1)
            * (2 if options.context else 1)
        )
        self.out_channels = in_channels * copies
        means, moments = self._make_filters(*map_size)
        _keep(self, "means", means)
        _keep(self, "moments", moments)
        # Places and differences are small beside the features themselves: bring all to one scale
        # before they are mixed.
        self.standardise = (
            LastAxisBatchNorm(self.out_channels)
            if options.moments or options.differences
            else nn.Identity()
        )

    def _make_filters(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Means [N, H * W]; first moments [2, N, H * W], in halves of the frame, so that one step
        counts alike at every scale.
        """
        scales = self.options.scales
        size = torch.cat(
            [torch.full((scale * scale, 1), 1 / scale, device="cpu") for scale in scales]
        )
        return grid.pooling_matrix(scales, height, width), grid.moment_matrices(
            scales, height, width
        ) * size

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, T, H, W] to [B, T, N, out_channels]."""
        height, width = features.shape[-2:]
        kept = (height, width) == self.map_size
        means, moments = (self.means, self.moments) if kept else self._make_filters(height, width)
        flat = features.permute(0, 2, 3, 4, 1).flatten(2, 3)  # [B, T, H * W, C]
        nodes = means.to(flat) @ flat  # [B, T, N, C]
        if self.options.moments:
            with full_precision(flat):  # a move of a tenth of a region is below what bf16 keeps
                nodes = torch.cat(
                    [
                        nodes,
                        grid.centres(
                            flat.float(), means.to(flat.device), moments.to(flat.device)
                        ).to(nodes),
                    ],
                    dim=-1,
                )
        if self.options.differences:
            change = nodes[:, 1:] - nodes[:, :-1]
            nodes = torch.cat(
                [nodes, F.pad(change, (0, 0, 0, 0, 1, 0))], dim=-1
            )  # no past: no change
        if self.options.context:
            nodes = torch.cat(
                [nodes, nodes[:, :, -1:].expand_as(nodes)], dim=-1
            )  # the last node is the whole frame's
        standard: Tensor = self.standardise(nodes)
        return standard


class Send(nn.Module):
    """Messages between nodes: an MLP over (source, destination), ReLU after both layers (slides'
    equation 5).

    The first layer is linear in the pair, so it is applied to sources and destinations once each
    and summed; no pair is concatenated.

    Args:
        width: of nodes and messages (D).
        options: which graph.
        norm_axes: trailing axes of the messages that a layer norm takes together.
    """

    positions: Tensor
    ends: Tensor
    edge_index: Tensor

    def __init__(self, width: int, options: GraphOptions, norm_axes: int = 3) -> None:
        super().__init__()
        positions = (
            grid.position_maps(options.scales) if options.position_maps else torch.zeros(0, 0)
        )
        _keep(self, "positions", positions)
        destination, source = grid.adjacency(options.scales).nonzero(as_tuple=True)
        size = grid.num_nodes(options.scales)
        ends = torch.cat([F.one_hot(source, size), F.one_hot(destination, size)], dim=1).float()
        _keep(self, "ends", ends)  # [E, 2 N]: the source and the destination of each edge
        _keep(self, "edge_index", destination * size + source)
        self.source = nn.Linear(width + positions.shape[-1], width, bias=False)
        self.destination = nn.Linear(width + positions.shape[-1], width)
        self.second = nn.Linear(width, width)
        self.norm = make_norm(options.norm, width, num_axes=norm_axes)

    def parts(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer's share of each node as source and as destination, [..., N, D] each."""
        if self.positions.numel():
            place = self.positions.to(nodes).expand(*nodes.shape[:-1], -1)
            nodes = torch.cat([nodes, place], dim=-1)
        return self.source(nodes), self.destination(nodes)

    def finish(self, hidden: Tensor) -> Tensor:
        """The rest of the MLP, on the summed shares of any number of pairs."""
        message: Tensor = self.norm(F.relu(self.second(F.relu(hidden))))
        return message

    def all_pairs(self, nodes: Tensor, past: Tensor | None = None) -> Tensor:
        """[B, T, N, D] to messages [B, T, N, N, D], destination first; with `past`, its message is
        column N + 1 of each node.
        """
        source, destination = self.parts(nodes)
        hidden = destination[..., :, None, :] + source[..., None, :, :]  # [B, T, N, N, D]
        if past is not None:
            from_past = destination + self.parts(past)[0]
            hidden = torch.cat([hidden, from_past[..., None, :]], dim=-2)  # [B, T, N, N + 1, D]
        return self.finish(hidden)

    def edges(self, nodes: Tensor) -> Tensor:
        """[B, T, N, D] to messages [B, T, E, D] of the true edges only, in row-major order of the
        adjacency.
        """
        hidden = torch.cat(self.parts(nodes), dim=-2)  # [B, T, 2 N, D]
        return self.finish(self.ends.to(hidden) @ hidden)


class Attention(nn.Module):
    """Weight of source j in destination i.

    Args:
        width: of nodes (D).
        options: which graph.
    """

    linked: Tensor

    def __init__(self, width: int, options: GraphOptions) -> None:
        super().__init__()
        self.kind, self.mask = options.attention, options.mask_non_edges
        _keep(self, "linked", grid.adjacency(options.scales))
        heads = 1 if options.attention == "simple" else width
        self.query = nn.Linear(width, heads)
        self.key = nn.Linear(width, heads)

    def forward(self, nodes: Tensor, past: Tensor | None = None) -> Tensor:
        """[B, T, N, D] to [B, T, N, N]; with `past`, [B, T, N, N + 1]. Rows sum to 1 except for
        "dot_neighbours".
        """
        query, key = self.query(nodes), self.key(nodes)
        scores = (
            query + key.transpose(-1, -2)
            if self.kind == "simple"
            else query @ key.transpose(-1, -2)
        )
        linked = self.linked.expand_as(scores)
        if past is not None:
            own = self.key(past)
            from_past = (
                query + own if self.kind == "simple" else (query * own).sum(-1, keepdim=True)
            )
            exists = _has_past(nodes).expand_as(from_past)
            scores, linked = (
                torch.cat([scores, from_past], dim=-1),
                torch.cat([linked, exists], dim=-1),
            )
        return self._weigh(scores, linked, past is not None)

    def _weigh(self, scores: Tensor, linked: Tensor, with_past: bool) -> Tensor:
        edge = linked.to(scores)
        if self.kind == "dot_neighbours":
            return scores * edge
        if self.kind == "simple":
            scores = F.leaky_relu(scores * edge, 0.2) + edge
        if self.mask:
            return scores.masked_fill(~linked, float("-inf")).softmax(dim=-1)
        # The authors multiply by the adjacency, so a non-edge keeps logit 0 and takes its share of
        # the softmax.
        logits = scores * edge
        if with_past:  # but a past that does not exist has no share
            logits = torch.cat(
                [logits[..., :-1], logits[..., -1:].masked_fill(~linked[..., -1:], float("-inf"))],
                dim=-1,
            )
        return logits.softmax(dim=-1)


def _has_past(nodes: Tensor) -> Tensor:
    """False for the first frame: bool [T, 1, 1]."""
    return (torch.arange(nodes.shape[1], device=nodes.device) > 0)[:, None, None]


class SpaceStage(nn.Module):
    """One round of messages inside each frame: send, gather by attention, update (slides' equations
    5 to 8).

    Args:
        width: of nodes and messages (D).
        options: which graph.
    """

    def __init__(self, width: int, options: GraphOptions) -> None:
        super().__init__()
        self.options = options
        # The slides sum plain products; bias, norm and ReLU after the sum are the code's.
        self.plain_sum = options.attention == "dot_neighbours"
        self.homogeneous = options.time_stages == "homogeneous"
        self.edges_only = (options.mask_non_edges or self.plain_sum) and not self.homogeneous
        self.send = Send(width, options, norm_axes=2 if self.edges_only else 3)
        self.attention = Attention(width, options)
        self.gather_bias = None if self.plain_sum else nn.Parameter(torch.zeros(width))
        self.gather_norm = make_norm(
            options.norm if options.attention == "simple" else "none", width, num_axes=2
        )
        num_updates = len(options.scales) if options.scalewise_update else 1
        self.update = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
            )
            for _ in range(num_updates)
        )
        self.update_norm = make_norm(options.norm, width, num_axes=2)

    def forward(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, N, D] to updated nodes [B, T, N, D] and attention [B, T, N, N]; "homogeneous": [B,
        T, N, N + 1].
        """
        past = F.pad(nodes[:, :-1], (0, 0, 0, 0, 1, 0)) if self.homogeneous else None
        attention = self.attention(nodes, past)
        if self.edges_only:
            gathered = self._gather_edges(attention, self.send.edges(nodes))
        else:
            gathered = (attention[..., None, :] @ self.send.all_pairs(nodes, past)).squeeze(-2)
        if self.gather_bias is not None:
            gathered = F.relu(self.gather_norm(gathered + self.gather_bias))
        return self._update(nodes, gathered), attention

    def _gather_edges(self, attention: Tensor, messages: Tensor) -> Tensor:
        """Sum of the edges' messages, weighted, at their destinations: [B, T, N, N] and [B, T, E,
        D] to [B, T, N, D].
        """
        weights = attention.flatten(-2)[..., self.send.edge_index]  # [B, T, E]
        arrive = self.send.ends[:, attention.shape[-1] :].T.to(messages)  # [N, E]
        return (arrive * weights.to(messages)[..., None, :]) @ messages

    def _update(self, nodes: Tensor, gathered: Tensor) -> Tensor:
        pairs = torch.cat([nodes, gathered], dim=-1)  # [B, T, N, 2 D]
        if self.options.scalewise_update:
            groups = torch.split(pairs, [scale * scale for scale in self.options.scales], dim=-2)
            updated = torch.cat(
                [mlp(group) for mlp, group in zip(self.update, groups, strict=True)], dim=-2
            )
        else:
            updated = self.update[0](pairs)
        normed: Tensor = self.update_norm(updated)
        return normed


class TimeStage(nn.Module):
    """An LSTM over the frames of every node by itself, all nodes in one call, from a zero state
    (slides' equation 9).

    Args:
        width: of nodes (D), in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, nodes: Tensor) -> Tensor:
        """[B, T, N, D] to the same shape."""
        batch, frames, size, width = nodes.shape
        sequences = nodes.transpose(1, 2).reshape(batch * size, frames, width)
        hidden, _ = self.lstm(sequences)
        states: Tensor = hidden.reshape(batch, size, frames, width)
        return states.transpose(1, 2)  # [B, T, N, D]


class RecurrentSpaceTimeGraph(nn.Module):
    """Recurrent space-time graph over the regions of a feature map.

    Args:
        in_channels: channels of the map (C).
        width: of nodes and messages (D); other than C, nodes are projected.
        map_size: rows and columns of the map; another size at test time is allowed.
        options: which graph.
        project: project nodes even where C equals D (None: only where they differ).
        project_back: nodes are projected back to C after the last stage.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        map_size: tuple[int, int],
        options: GraphOptions | None = None,
        project: bool | None = None,
        project_back: bool = False,
    ) -> None:
        super().__init__()
        options = options or GraphOptions()
        self.options = options
        self.create = NodeCreation(in_channels, map_size, options)
        needed = self.create.out_channels != width if project is None else project
        self.project = nn.Linear(self.create.out_channels, width) if needed else nn.Identity()
        self.node_batch_norm = (
            LastAxisBatchNorm(width, eps=1e-3, momentum=0.01)
            if options.node_batch_norm
            else nn.Identity()
        )
        self.node_norm = make_norm(options.norm, width, num_axes=3)
        self.num_stages = 0 if options.time_stages == "only" else options.num_stages
        self.space = SpaceStage(width, options) if self.num_stages else None
        self.time = TimeStage(width) if options.time_stages == "all" else None
        self.final_time = (
            TimeStage(width) if options.time_stages in ("all", "final", "only") else None
        )
        self.project_back = nn.Linear(width, in_channels) if project_back else nn.Identity()
        self.out_channels = in_channels if project_back else width
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial weights: Glorot uniform per layer and per gate of an LSTM, biases zero; "he": see
        `GraphOptions`.

        Torch's own defaults have a third of Glorot's variance; through three stages nothing of the
        clip would be left.
        """
        he = self.options.initialisation == "he"
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear):
                before_relu = ".send." in name or ".update." in name
                nn.init.xavier_uniform_(
                    layer.weight, gain=math.sqrt(2) if he and before_relu else 1.0
                )
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.LSTM):
                for parameter_name, parameter in layer.named_parameters():
                    if "weight" in parameter_name:
                        for gate in parameter.data.chunk(4):
                            nn.init.xavier_uniform_(gate)
                    else:
                        nn.init.zeros_(parameter)
                    if he and parameter_name == "bias_ih_l0":
                        nn.init.ones_(parameter.data.chunk(4)[1])  # the forget gate

    def forward(self, features: Tensor) -> Tensor:
        """Feature map [B, C, T, H, W] to one vector per clip, [B, D]: the sum of its nodes."""
        nodes, _ = self.reason(features)
        return self.readout(nodes)

    def forward_map(self, features: Tensor) -> Tensor:
        """Feature map [B, C, T, H, W] to a map of the same size, [B, D, T, H, W]: each node painted
        over its region, scales summed.
        """
        nodes, _ = self.reason(features)
        height, width = features.shape[-2:]
        paint = grid.unpooling_matrix(self.options.scales, height, width).to(nodes)
        cells = (paint @ nodes).reshape(*nodes.shape[:2], height, width, -1)  # [B, T, H, W, D]
        return cells.permute(0, 4, 1, 2, 3)

    def reason(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The nodes after all stages, [B, T, N, D], and each stage's attention, [B, T, N, N]."""
        # Regions to nodes: [B, C, T, H, W] -> [B, T, N, D]
        nodes = self.node_norm(self.node_batch_norm(self.project(self.create(features))))
        attentions = []
        for _ in range(self.num_stages):
            assert self.space is not None
            # Time: every node through its own past
            if self.time is not None:
                nodes = self.time(nodes)
            # Space: messages between the nodes of a frame
            nodes, attention = self.space(nodes)
            attentions.append(attention)
        if self.final_time is not None:
            nodes = self.final_time(nodes)
        return self.project_back(nodes), attentions

    def readout(self, nodes: Tensor) -> Tensor:
        """Sum over nodes of their mean over time or of their last frame: [B, T, N, D] to [B, D]."""
        over_time = nodes[:, -1] if self.options.readout == "last" else nodes.mean(dim=1)
        return over_time.sum(dim=1)
