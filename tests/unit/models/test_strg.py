"""STRG as a whole: its start is its backbone, everything learns, boxes that do not exist do not
count, and what it explains.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.errors import DataError
from vidgraph.evaluation.profile import profile_model, to_text
from vidgraph.models.base import ClipModel
from vidgraph.models.build import create_model
from vidgraph.models.region_graph import overlaps
from vidgraph.records import Regions

FRAMES, SIDE, COUNT, CLASSES = 6, 48, 4, 5
KINDS: list[dict[str, Any]] = [
    {"graph": "avgpool"},
    {"graph": "sim"},
    {"graph": "st"},
    {"graph": "joint"},
    {"graph": "joint", "fusion": "joint"},
]


def small(non_local: bool = False, **head: Any) -> ClipModel:
    """Six frames, three steps of the map, four boxes; without dropout."""
    torch.manual_seed(0)
    spec = {"num_frames": FRAMES, "height": SIDE, "width": SIDE, "boxes_per_frame": COUNT}
    head = {"width": 16, "dropout": 0.0, **head}
    inserted = {"type": "nonlocal", "blocks": ["layer2_0", "layer3_0"]} if non_local else None
    model = create_model("strg_small", CLASSES, input=spec, head=head, inserted=inserted)
    assert isinstance(model, ClipModel)
    return model


def awake(model: ClipModel) -> ClipModel:
    """In evaluation mode, with a graph whose half is not zero."""
    for layers in model.head.graph.branches.values():
        for weight in layers[-1].weights.values():
            nn.init.normal_(weight.weight)
    return model.eval()


def clips(batch: int = 3, seed: int = 0) -> tuple[Tensor, Regions]:
    """Clips with boxes, of which a quarter does not exist."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randint(
        0, 256, (batch, 3, FRAMES, SIDE, SIDE), dtype=torch.uint8, generator=generator
    )
    low = torch.rand(batch, FRAMES, COUNT, 2, generator=generator) / 2
    extent = 0.1 + torch.rand(batch, FRAMES, COUNT, 2, generator=generator) / 2
    boxes = torch.cat([low, low + extent], dim=-1).clamp(max=1)
    mask = torch.rand(batch, FRAMES, COUNT, generator=generator) > 0.25
    return video, Regions(
        boxes.masked_fill(~mask[..., None], 0),
        torch.rand(batch, FRAMES, COUNT, generator=generator),
        mask,
    )


@pytest.mark.parametrize("options", KINDS[1:])
@pytest.mark.parametrize("non_local", [False, True])
def test_the_first_output_equals_the_backbone_alone(
    options: dict[str, Any], non_local: bool
) -> None:
    """The graph's half of the vector is zero, and the classifier's own half is the backbone's."""
    model, plain = small(**options, non_local=non_local), small(graph="none", non_local=non_local)
    state = model.state_dict()
    shared = {name: state[name] for name in plain.state_dict()}
    shared["head.classifier.weight"] = state["head.classifier.weight"][:, :16]
    plain.load_state_dict(shared)
    video, regions = clips()
    assert_close_to_scale(model.eval()(video, regions=regions), plain.eval()(video))
    assert plain.spec.boxes_per_frame == 0
    assert not torch.equal(awake(model)(video, regions=regions), plain(video))


@pytest.mark.parametrize("options", KINDS)
def test_boxes_that_do_not_exist_have_no_influence(options: dict[str, Any]) -> None:
    model, (video, regions) = awake(small(**options)), clips()
    expected = model(video, regions=regions)
    for rubbish in (float("nan"), 1e6, -5.0):
        boxes = regions.boxes_xyxy.masked_fill(~regions.mask[..., None], rubbish)
        assert torch.equal(
            model(video, regions=Regions(boxes, regions.scores * 0, regions.mask)), expected
        )
    padding = torch.zeros(3, FRAMES, 3)
    padded = Regions(
        torch.cat([regions.boxes_xyxy, torch.full((3, FRAMES, 3, 4), 0.4)], dim=2),
        torch.cat([regions.scores, padding], dim=2),
        torch.cat([regions.mask, padding.bool()], dim=2),
    )
    assert_close_to_scale(model(video, regions=padded), expected, rel=1e-4)
    fewer = Regions(regions.boxes_xyxy, regions.scores, regions.mask & (torch.arange(COUNT) > 0))
    assert not torch.allclose(model(video, regions=fewer), expected)


@pytest.mark.parametrize("options", KINDS)
def test_clips_without_any_box_are_scored_by_the_backbone(options: dict[str, Any]) -> None:
    model, (video, regions) = awake(small(**options)), clips()
    nothing = Regions(regions.boxes_xyxy, regions.scores, torch.zeros_like(regions.mask))
    features = model.head.reduce(model.forward_features(video))
    vector = torch.cat([features.mean(dim=(2, 3, 4)), torch.zeros(3, 16)], dim=1)
    assert_close_to_scale(model(video, regions=nothing), model.head.classifier(vector))
    model.train()(video, regions=nothing).sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_larger_frame_has_scores() -> None:
    model, (video, regions) = awake(small()), clips()
    larger = F.pad(video, (0, 27, 0, 5))
    assert torch.isfinite(model(larger, regions=regions)).all()
    assert not torch.allclose(model(larger, regions=regions), model(video, regions=regions))


def test_dropout_is_on_the_global_half_and_by_option_on_the_other() -> None:
    video, regions = clips()
    model = awake(small(graph="avgpool", dropout=0.5))
    model.head.classifier = nn.Identity()
    plain = model(video, regions=regions)
    model.train()
    for module in model.backbone.modules():
        module.training = False
    dropped = model(video, regions=regions)
    assert torch.equal(dropped[:, 16:], plain[:, 16:])
    ratio = dropped[:, :16] / plain[:, :16]
    assert set(ratio.round(decimals=4).flatten().tolist()) == {0.0, 2.0}
    assert small(graph_dropout=0.5).head.graph_dropout.p == 0.5


@pytest.mark.slow
def test_compiled_in_one_piece_equals_eager_with_its_gradients() -> None:
    """Traced and differentiated by torch's compiler; without its code generator, which takes
    minutes for a backbone on a CPU."""
    model, (video, regions) = awake(small()), clips()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = model(video, regions=regions)
    expected.square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    found = compiled(video, regions=regions)
    assert_close_to_scale(found, expected)
    found.square().sum().backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert_close_to_scale(parameter.grad, gradient)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda regions: None, "the clips came without boxes; give a store of boxes"),
        (
            lambda r: Regions(r.boxes_xyxy[:, :3], r.scores[:, :3], r.mask[:, :3]),
            "3 clips of 6 frames, and the boxes of 3 clips of 3 frames",
        ),
        (lambda r: r.part(0, 2), "3 clips of 6 frames, and the boxes of 2 clips of 6 frames"),
    ],
)
def test_missing_boxes_are_one_line(change: Any, words: str) -> None:
    video, regions = clips()
    with pytest.raises(DataError) as error:
        small().eval()(video, regions=change(regions))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_explanation_holds_the_graphs_that_the_model_has() -> None:
    model, (video, regions) = awake(small()), clips(2)
    with torch.no_grad():
        features = model.head.reduce(model.forward_features(video))
        nodes, steps = model.head.nodes(features, regions)
        links = model.head.graph.graphs(nodes, steps.boxes_xyxy, steps.mask)
    explanation = model.explain(video, regions=regions)[1]
    found = explanation.regions
    assert found is not None
    assert found.frames.tolist() == [0, 2, 4]
    assert torch.equal(found.mask, regions.mask[1, ::2])
    assert torch.equal(found.scores, regions.scores[1, ::2])
    # A frame between two steps shows the step before it.
    boxes = regions.boxes_xyxy[1, [0, 0, 2, 2, 4, 4]]
    assert_close_to_scale(explanation.node_boxes_xyxy, boxes)
    assert_close_to_scale(found.overlap[:2], overlaps(steps.boxes_xyxy, steps.mask)[1])
    assert not found.overlap[2].any()
    similarity = links["similarity"][1].fill_diagonal_(0)
    assert found.neighbours.shape == found.weights.shape == (3, COUNT, 5)
    for step in range(3):
        for box in range(COUNT):
            strongest = similarity[step * COUNT + box].sort(descending=True).values[:5]
            assert_close_to_scale(found.weights[step, box], strongest)
            assert_close_to_scale(
                similarity[step * COUNT + box, found.neighbours[step, box]], strongest
            )
    torch.testing.assert_close(found.even, torch.full((3,), 1 / int(steps.mask[1].sum())))
    assert explanation.attention.shape == (0, FRAMES, COUNT, COUNT)
    assert explanation.names == ("box 1", "box 2", "box 3", "box 4")


# ---- what it costs -------------------------------------------------------------------------------

NODES, WIDTH, LAYERS = 16 * 50, 512, 3


def profile(name: str, **overrides: Any) -> dict[str, Any]:
    with torch.device("meta"):
        return profile_model(create_model(name, **overrides))


def graph_by_hand(similarity: bool = True, overlap: bool = True) -> float:
    """GMAC of all graphs as N x N matrices: X W and G X per graph and layer, two embeddings, their
    products."""
    graphs = similarity + 2 * overlap
    layers = LAYERS * graphs * (NODES * WIDTH**2 + NODES**2 * WIDTH)
    return (layers + similarity * (2 * NODES * WIDTH**2 + NODES**2 * WIDTH)) / 1e9


def test_parts_add_up_as_the_paper_counts_them() -> None:
    """158.05 GMAC: 152.47 for the backbone and 5.58 for the graph, whose cost grows faster than the
    number of boxes; the convolution that reduces the map is not counted."""
    full = profile("strg_i3d_r50")
    assert {name: part["params"] for name, part in full["parts"].items() if part["params"]} == {
        "backbone": 27_223_872,
        "head.reduce": 2048 * 512 + 512,
        "head.graph": 2 * 512**2 + 9 * 512**2 + 4 * 2 * 512,
        "head.classifier": 1024 * 157 + 157,
    }
    gmac = {name: part["gmac"] for name, part in full["parts"].items()}
    assert gmac["backbone"] == pytest.approx(152.47, abs=0.005)
    assert gmac["head.reduce"] == pytest.approx(3.29, abs=0.005)
    assert gmac["head.graph"] == pytest.approx(graph_by_hand(), rel=1e-12)
    assert full["gmac"]["total"] - gmac["head.reduce"] == pytest.approx(158.05, abs=0.005)
    assert full["gmac"]["executed"] == pytest.approx(159.49, abs=0.005)
    assert full["output_shapes"]["backbone"] == [1, 2048, 16, 14, 14]
    assert full["output_shapes"]["head.graph"] == [1, 16, 50, 512]
    few, many = (
        profile("strg_i3d_r50", input={"boxes_per_frame": boxes})["parts"]["head.graph"]["gmac"]
        for boxes in (10, 100)
    )
    assert (few, many) == (pytest.approx(0.59, abs=0.005), pytest.approx(17.7, abs=0.05))
    assert profile("strg_i3d_r101")["output_shapes"]["backbone"] == [1, 2048, 16, 18, 18]


@pytest.mark.parametrize(
    ("graph", "by_hand"),
    [("sim", graph_by_hand(overlap=False)), ("st", graph_by_hand(similarity=False))],
)
def test_what_runs_is_the_blocks_only(graph: str, by_hand: float) -> None:
    counted = profile("strg_i3d_r50", head={"graph": graph})
    assert counted["parts"]["head.graph"]["gmac"] == pytest.approx(by_hand, rel=1e-12)
    if graph == "sim":
        assert "executed" not in counted["gmac"]
        return
    zeros = 2 * LAYERS * (NODES**2 - 15 * 50**2) * WIDTH / 1e9
    assert counted["gmac"]["total"] - counted["gmac"]["executed"] == pytest.approx(zeros, rel=1e-9)
    words = f"as it runs, without products with zeros: {counted['gmac']['executed']:.4f} GMAC"
    assert words in to_text(counted)
