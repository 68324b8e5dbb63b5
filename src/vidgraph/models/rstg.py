"""The recurrent space-time graph: time stages (LSTM) alternate with space stages (send, gather,
update).

Source: Recurrent Space-time Graph Neural Networks (NeurIPS 2019) and its authors' code. Where
slides and code differ, the default is the code and the slides are an option (docs/departures.md).

Shapes: B batch, C channels, T frames, H W map, N nodes, E edges, D width, S stages.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.errors import RecipeError
from vidgraph.models import grid
from vidgraph.models.norms import LastAxisBatchNorm, make_norm
from vidgraph.models.rstg_extras import NodeExtras, RSTGExtras, he_initialisation
from vidgraph.records import Explanation, Positive, options

TimeStages = Literal["all", "final", "none", "only", "homogeneous"]


@options
class RSTGOptions:
    """Which recurrent space-time graph.

    Attributes:
        width: of nodes and messages (D).
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
        position_maps: nodes tell their position when they send (the paper's Positional variant).
        scalewise_update: one update MLP per scale.
        norm: over messages, updates and created nodes: "none", "layer" (all axes jointly) or
            "batch".
        node_batch_norm: batch norm of the created nodes, as the authors do on SyncMNIST.
        readout: "mean" over time (code) or "last" frame (slides).
        extras: additions of ours, off by default.
    """

    width: Positive = 512
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (3, 2, 1)
    num_stages: Positive = 3
    time_stages: TimeStages = "all"
    attention: Literal["simple", "dot", "dot_neighbours"] = "dot"
    mask_non_edges: bool = False
    position_maps: bool = False
    scalewise_update: bool = False
    norm: Literal["none", "layer", "batch"] = "none"
    node_batch_norm: bool = False
    readout: Literal["mean", "last"] = "mean"
    extras: RSTGExtras = RSTGExtras()
    type: Literal["rstg"] = "rstg"

    def __post_init__(self) -> None:
        if self.extras.context and self.scales[-1] != 1:
            needs = "extras.context needs a node of the whole frame: the last of scales is 1"
            raise RecipeError(f"{needs}, not {self.scales[-1]}")


class Send(nn.Module):
    """Messages: an MLP over (source, destination), ReLU after both layers (equation 5).

    The first layer is linear in the pair, so it is applied to sources and destinations once each
    and summed; no pair is concatenated. A layer norm takes `norm_axes` trailing axes together.
    """

    positions: Tensor
    ends: Tensor
    edge_index: Tensor

    def __init__(self, options: RSTGOptions, norm_axes: int = 3) -> None:
        super().__init__()
        width = options.width
        wanted = options.position_maps
        positions = grid.position_maps(options.scales) if wanted else torch.zeros(0, 0)
        grid.keep(self, "positions", positions)
        destination, source = grid.adjacency(options.scales).nonzero(as_tuple=True)
        size = grid.num_nodes(options.scales)
        ends = torch.cat([F.one_hot(source, size), F.one_hot(destination, size)], dim=1).float()
        grid.keep(self, "ends", ends)  # [E, 2 N]: the source and the destination of each edge
        grid.keep(self, "edge_index", destination * size + source)
        self.source = nn.Linear(width + positions.shape[-1], width, bias=False)
        self.destination = nn.Linear(width + positions.shape[-1], width)
        self.second = nn.Linear(width, width)
        self.norm = make_norm(options.norm, width, num_axes=norm_axes)

    def parts(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer's share of each node as source and as destination, [..., N, D] each."""
        if self.positions.numel():
            positions = self.positions.to(nodes).expand(*nodes.shape[:-1], -1)
            nodes = torch.cat([nodes, positions], dim=-1)
        return self.source(nodes), self.destination(nodes)

    def finish(self, hidden: Tensor) -> Tensor:
        """The rest of the MLP, on the summed shares of any number of pairs."""
        message: Tensor = self.norm(F.relu(self.second(F.relu(hidden))))
        return message

    def all_pairs(self, nodes: Tensor, past: Tensor | None = None) -> Tensor:
        """[B, T, N, D] to messages [B, T, N, N, D], destination first; `past` is column N + 1."""
        source, destination = self.parts(nodes)
        hidden = destination[..., :, None, :] + source[..., None, :, :]  # [B, T, N, N, D]
        if past is not None:
            from_past = destination + self.parts(past)[0]
            hidden = torch.cat([hidden, from_past[..., None, :]], dim=-2)  # [B, T, N, N + 1, D]
        return self.finish(hidden)

    def edges(self, nodes: Tensor) -> Tensor:
        """[B, T, N, D] to messages [B, T, E, D] of the true edges, row by row of the adjacency."""
        hidden = torch.cat(self.parts(nodes), dim=-2)  # [B, T, 2 N, D]
        return self.finish(self.ends.to(hidden) @ hidden)


class Attention(nn.Module):
    """Weight of source j in destination i."""

    linked: Tensor

    def __init__(self, options: RSTGOptions) -> None:
        super().__init__()
        width = options.width
        self.kind, self.mask = options.attention, options.mask_non_edges
        grid.keep(self, "linked", grid.adjacency(options.scales))
        heads = 1 if options.attention == "simple" else width
        self.query = nn.Linear(width, heads)
        self.key = nn.Linear(width, heads)

    def forward(self, nodes: Tensor, past: Tensor | None = None) -> Tensor:
        """[B, T, N, D] to [B, T, N, N] (N + 1 with `past`); rows sum to 1 but for raw products."""
        query, key = self.query(nodes), self.key(nodes)
        simple = self.kind == "simple"
        scores = query + key.mT if simple else query @ key.mT
        linked = self.linked.expand_as(scores)
        if past is not None:
            own = self.key(past)
            from_past = query + own if simple else (query * own).sum(-1, keepdim=True)
            scores = torch.cat([scores, from_past], dim=-1)
            exists = torch.arange(nodes.shape[1], device=nodes.device)[:, None, None] > 0
            linked = torch.cat([linked, exists.expand_as(from_past)], dim=-1)
        return self._weigh(scores, linked)

    def _weigh(self, scores: Tensor, linked: Tensor) -> Tensor:
        edge = linked.to(scores)
        if self.kind == "dot_neighbours":
            return scores * edge
        if self.kind == "simple":
            scores = F.leaky_relu(scores * edge, 0.2) + edge
        without = ~linked
        if not self.mask:
            # The authors multiply by the adjacency, so a non-edge keeps logit 0 and takes its share
            # of the softmax; but a past that does not exist has none.
            scores = scores * edge
            without[..., : len(self.linked)] = False
        return scores.masked_fill(without, float("-inf")).softmax(dim=-1)


class SpaceStage(nn.Module):
    """One round of messages in each frame: send, gather, update (equations 5 to 8)."""

    def __init__(self, options: RSTGOptions) -> None:
        super().__init__()
        width = options.width
        # The slides sum plain products; bias, norm and ReLU after the sum are the code's.
        self.plain_sum = options.attention == "dot_neighbours"
        self.homogeneous = options.time_stages == "homogeneous"
        self.edges_only = (options.mask_non_edges or self.plain_sum) and not self.homogeneous
        self.send = Send(options, norm_axes=2 if self.edges_only else 3)
        self.attention = Attention(options)
        self.gather_bias = None if self.plain_sum else nn.Parameter(torch.zeros(width))
        gather_norm = options.norm if options.attention == "simple" else "none"
        self.gather_norm = make_norm(gather_norm, width, num_axes=2)
        cells = [scale * scale for scale in options.scales]
        self.group_sizes = cells if options.scalewise_update else [sum(cells)]
        self.update = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
            )
            for _ in self.group_sizes
        )
        self.update_norm = make_norm(options.norm, width, num_axes=2)

    def forward(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, N, D] to updated nodes and attention [B, T, N, N] (N + 1 if homogeneous)."""
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
        """Weighted messages summed at their destinations: [B, T, E, D] to [B, T, N, D]."""
        weights = attention.flatten(-2)[..., self.send.edge_index]  # [B, T, E]
        arrive = self.send.ends[:, attention.shape[-1] :].T.to(messages)  # [N, E]
        return (arrive * weights.to(messages)[..., None, :]) @ messages

    def _update(self, nodes: Tensor, gathered: Tensor) -> Tensor:
        pairs = torch.cat([nodes, gathered], dim=-1)  # [B, T, N, 2 D]
        groups = pairs.split(self.group_sizes, dim=-2)
        updated = [mlp(group) for mlp, group in zip(self.update, groups, strict=True)]
        normed: Tensor = self.update_norm(torch.cat(updated, dim=-2))
        return normed


class TimeStage(nn.Module):
    """An LSTM over the frames of every node, all nodes in one call (equation 9)."""

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
        map_size: rows and columns of the map; another size at test time is allowed.
        options: which graph.
        project: project nodes even where C equals D (None: only where they differ).
        project_back: nodes are projected back to C after the last stage.
    """

    def __init__(
        self,
        in_channels: int,
        map_size: tuple[int, int],
        options: RSTGOptions,
        project: bool | None = None,
        project_back: bool = False,
    ) -> None:
        super().__init__()
        self.options, width = options, options.width
        self.grid = grid.Grid(options.scales, map_size)
        self.extras = NodeExtras(in_channels, options.extras, options.scales, map_size)
        needed = self.extras.out_channels != width if project is None else project
        self.project = nn.Linear(self.extras.out_channels, width) if needed else nn.Identity()
        self.node_batch_norm: nn.Module = nn.Identity()
        if options.node_batch_norm:
            self.node_batch_norm = LastAxisBatchNorm(width, eps=1e-3, momentum=0.01)
        self.node_norm = make_norm(options.norm, width, num_axes=3)
        stages = options.time_stages
        self.num_stages = 0 if stages == "only" else options.num_stages
        self.space = SpaceStage(options) if self.num_stages else None
        self.time = TimeStage(width) if stages == "all" else None
        self.final_time = TimeStage(width) if stages in ("all", "final", "only") else None
        self.project_back = nn.Linear(width, in_channels) if project_back else nn.Identity()
        self.out_channels = in_channels if project_back else width
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial weights: Glorot uniform per layer and per gate of an LSTM, biases zero.

        Torch's own defaults have a third of Glorot's variance; through three stages nothing of the
        clip would be left.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.LSTM):
                for name, parameter in layer.named_parameters():
                    start = nn.init.xavier_uniform_ if "weight" in name else nn.init.zeros_
                    for gate in parameter.data.chunk(4):
                        start(gate)
        if self.options.extras.he:
            he_initialisation(self)

    def forward(self, features: Tensor) -> Tensor:
        """Feature map [B, C, T, H, W] to the nodes after all stages, [B, T, N, D]."""
        return self.reason(features)[0]

    def reason(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The nodes after all stages, [B, T, N, D], and each stage's attention, [B, T, N, N]."""
        # Regions to nodes: [B, C, T, H, W] -> [B, T, N, D]
        nodes = self.grid.pool(features)
        nodes = self.project(self.extras(nodes, features, self.grid.means(features)))
        nodes = self.node_norm(self.node_batch_norm(nodes))
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

    def to_vector(self, nodes: Tensor) -> Tensor:
        """Sum over nodes of their mean over time or of their last frame: [B, T, N, D] to [B, D]."""
        over_time = nodes[:, -1] if self.options.readout == "last" else nodes.mean(dim=1)
        return over_time.sum(dim=1)

    @torch.no_grad()
    def explain(self, features: Tensor) -> list[Explanation]:
        """Nodes, edges and attention of each clip of a feature map [B, C, T, H, W]."""
        _, stages = self.reason(features)
        boxes, linked = grid.node_boxes(self.options.scales), grid.adjacency(self.options.scales)
        size, frames = len(boxes), features.shape[2]
        attention = torch.zeros(len(features), 0, frames, size, size)
        if stages:  # without what comes from the past: [B, S, T, N, N]
            attention = torch.stack([x[..., :size].float().cpu() for x in stages], dim=1)
        boxes, names = boxes.expand(frames, -1, -1), grid.node_names(self.options.scales)
        return [Explanation(boxes, linked, of_clip, names) for of_clip in attention]
