"""Graph convolutions over regions: along the similarity graph, the overlap graphs, or all of them.

Source: Videos as Space-Time Region Graphs (ECCV 2018), section 5. Where it leaves a choice,
    docs/departures.md has ours.

Shapes: B batch, T frames, K boxes per frame, N = T * K nodes of a clip, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.errors import RecipeError
from vidgraph.models.overlap import gather_next, gather_previous, overlap_graphs
from vidgraph.models.similarity import SimilarityGraph

GraphKind = Literal["none", "avgpool", "sim", "st", "joint"]
Edges = Literal["similarity", "front", "back"]

_OVERLAP: tuple[Edges, ...] = ("front", "back")


@dataclass(frozen=True)
class RegionGraphOptions:
    """Which graph over regions.

    Attributes:
        graph: "none": no regions, the backbone alone; "avgpool": the mean of the regions' features;
            "sim": the similarity graph; "st": the two overlap graphs, in space and time; "joint":
            both.
        fusion: of "joint": "late": two branches of layers whose last outputs are summed; "joint":
            all three graphs in every layer.
        width: of the nodes and all layers (D).
        num_layers: graph convolutions, one after another.
        residual: each layer but the last adds its input to its output.
        affine: layer norms have a gain and a bias.
        scale: similarities are divided by the root of the width.
    """

    graph: GraphKind = "joint"
    fusion: Literal["late", "joint"] = "late"
    width: int = 512
    num_layers: int = 3
    residual: bool = False
    affine: bool = True
    scale: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "num_layers"):
            if getattr(self, name) < 1:
                raise RecipeError(
                    f"{name} is {getattr(self, name)}; a graph over regions needs at least 1"
                )

    def branches(self) -> dict[str, tuple[Edges, ...]]:
        """The graphs that each branch of layers works along."""
        if self.graph == "joint" and self.fusion == "joint":
            return {"all": ("similarity", *_OVERLAP)}
        kinds: dict[str, tuple[Edges, ...]] = {"similarity": ("similarity",), "overlap": _OVERLAP}
        chosen = {"sim": ["similarity"], "st": ["overlap"], "joint": ["similarity", "overlap"]}.get(
            self.graph, []
        )
        return {name: kinds[name] for name in chosen}


@dataclass
class Links:
    """The graphs over the regions of a batch of clips, those that a model has.

    Attributes:
        similarity: weight of node j in node i at [b, i, j], [B, N, N].
        front: share of box j at t + 1 in box i at t at [b, t, i, j], [B, T - 1, K, K].
        back: share of box i at t in box j at t + 1 at [b, t, j, i], [B, T - 1, K, K].
    """

    similarity: Tensor | None = None
    front: Tensor | None = None
    back: Tensor | None = None

    def gather(self, edges: Edges, nodes: Tensor) -> Tensor:
        """G X: what each node collects along one graph, [B, T, K, D] to the same shape."""
        graph = getattr(self, edges)
        assert graph is not None, f"no {edges} graph was made"
        if edges == "similarity":
            collected: Tensor = graph.to(nodes) @ nodes.flatten(1, 2)  # [B, N, D]
            return collected.reshape(nodes.shape)
        gather = gather_next if edges == "front" else gather_previous
        return gather(graph.to(nodes), nodes)


class GraphConvolution(nn.Module):
    """One layer: Z = sum over graphs of G X W, each graph with its own W (equations 4 and 5); no
    bias.

    Args:
        width: of the nodes (D), in and out.
        edges: the graphs.
        last: the last layer is plain and its W are zero; all others are followed by layer norm and
            ReLU. The last one's output is then exactly zero at initialisation. With a ReLU after
            it, it would stay zero: no gradient passes a ReLU that gives zero.
        residual: a layer that is not the last adds its input to its output.
        affine: the layer norm has a gain and a bias.
    """

    def __init__(
        self,
        width: int,
        edges: Sequence[Edges],
        last: bool,
        residual: bool = False,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.edges, self.last, self.residual = tuple(edges), last, residual and not last
        self.weights = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in edges})
        self.norm = nn.Identity() if last else nn.LayerNorm(width, elementwise_affine=affine)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He normal before a ReLU, zero in the last layer."""
        for layer in self.weights.values():
            assert isinstance(layer, nn.Linear)
            if self.last:
                nn.init.zeros_(layer.weight)
            else:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, nodes: Tensor, links: Links) -> Tensor:
        """[B, T, K, D] to the same shape."""
        products: list[Tensor] = [
            self.weights[edges](links.gather(edges, nodes)) for edges in self.edges
        ]
        summed = sum(products[1:], start=products[0])
        if self.last:
            return summed
        activated = F.relu(self.norm(summed))
        return nodes + activated if self.residual else activated


class RegionGraph(nn.Module):
    """The graphs over the regions of a clip and the layers along them.

    Args:
        options: which graph; "none" is no graph and not for here.
    """

    def __init__(self, options: RegionGraphOptions) -> None:
        super().__init__()
        assert options.graph != "none"
        self.options = options
        branches = options.branches()
        edges = {name for branch in branches.values() for name in branch}
        self.similarity = (
            SimilarityGraph(options.width, options.scale) if "similarity" in edges else None
        )
        self.with_overlap = "front" in edges
        self.branches = nn.ModuleDict(
            {name: nn.ModuleList(_layers(branch, options)) for name, branch in branches.items()}
        )

    def links(self, nodes: Tensor, boxes_xyxy: Tensor, mask: Tensor) -> Links:
        """The graphs, made once for all layers: see `forward` for the arguments."""
        links = Links()
        if self.similarity is not None:
            links.similarity = self.similarity(nodes.flatten(1, 2), mask.flatten(1, 2))
        if self.with_overlap:
            links.front, links.back = overlap_graphs(boxes_xyxy, mask)
        return links

    def forward(self, nodes: Tensor, boxes_xyxy: Tensor, mask: Tensor) -> Tensor:
        """Regions reason.

        Args:
            nodes: features of the regions, [B, T, K, D].
            boxes_xyxy: their boxes, [B, T, K, 4], in any unit.
            mask: True where a region exists, [B, T, K].

        Returns:
            [B, T, K, D]: the sum of the branches, exactly zero at initialisation; for "avgpool" the
            nodes as they came. Where no region exists the values mean nothing, and none of the
            others depends on them.
        """
        if not self.branches:
            return nodes
        # Who resembles whom, [B, N, N], and who overlaps whom one frame on and one frame back, [B,
        # T - 1, K, K] each
        links = self.links(nodes, boxes_xyxy, mask)
        # Each branch by itself through all its layers, [B, T, K, D]; summed in the end
        outputs = []
        for layers in self.branches.values():
            assert isinstance(layers, nn.ModuleList)
            x = nodes
            for layer in layers:
                x = layer(x, links)
            outputs.append(x)
        return sum(outputs[1:], start=outputs[0])


def _layers(edges: Sequence[Edges], options: RegionGraphOptions) -> list[GraphConvolution]:
    last = options.num_layers - 1
    return [
        GraphConvolution(options.width, edges, i == last, options.residual, options.affine)
        for i in range(options.num_layers)
    ]
