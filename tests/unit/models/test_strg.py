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
from vidgraph.models.build import create_model
from vidgraph.models.overlap import overlaps
from vidgraph.models.strg import STRG
from vidgraph.records import Regions

FRAMES, SIDE, COUNT, CLASSES = 6, 48, 4, 5
KINDS: list[dict[str, Any]] = [
    {"graph": "avgpool"},
    {"graph": "sim"},
    {"graph": "st"},
    {"graph": "joint"},
    {"graph": "joint", "fusion": "joint"},
]


def small(**options: Any) -> STRG:
    """Six frames, three steps of the map, four boxes; without dropout."""
    torch.manual_seed(0)
    sizes = {
        "num_frames": FRAMES,
        "size": SIDE,
        "width": 16,
        "boxes_per_frame": COUNT,
        "dropout": 0.0,
    }
    model = create_model("strg_small", CLASSES, **{**sizes, **options})
    assert isinstance(model, STRG)
    return model


def awake(model: STRG) -> STRG:
    """In evaluation mode, with a graph whose half is not zero."""
    assert model.graph is not None
    for layers in model.graph.branches.values():
        for weight in layers[-1].weights.values():
            nn.init.normal_(weight.weight)
    return model.eval()


def clips(batch: int = 3, seed: int = 0) -> tuple[Tensor, Regions]:
    """Clips with boxes, of which a quarter does not exist."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randint(
        0, 256, (batch, 3, FRAMES, SIDE, SIDE), dtype=torch.uint8, generator=generator
    )
    low = torch.rand(batch, FRAMES, COUNT, 2, generator=generator) * SIDE / 2
    boxes = torch.cat(
        [low, low + 4 + torch.rand(batch, FRAMES, COUNT, 2, generator=generator) * SIDE / 2], dim=-1
    )
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
    shared["classifier.weight"] = state["classifier.weight"][:, :16]
    plain.load_state_dict(shared)
    video, regions = clips()
    assert_close_to_scale(model.eval()(video, regions), plain.eval()(video))
    assert plain.input_spec.boxes_per_frame == 0
    assert not torch.equal(awake(model)(video, regions), plain(video))


@pytest.mark.parametrize("options", KINDS[1:])
def test_one_step_moves_the_last_layer_and_two_move_everything(options: dict[str, Any]) -> None:
    model, (video, regions) = small(**options).train(), clips()
    labels = torch.tensor([0, 1, 2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        F.cross_entropy(model(video, regions), labels).backward()
        optimizer.step()
        moved.append(
            {
                name
                for name, value in model.named_parameters()
                if not torch.equal(value, before[name])
            }
        )
    graph = {name for name, _ in model.named_parameters() if name.startswith("graph.")}
    assert moved[0] & graph == {name for name in graph if ".2.weights." in name}
    assert moved[1] == {name for name, _ in model.named_parameters()}
    assert all(
        parameter.grad is not None and parameter.grad.any() for parameter in model.parameters()
    )


def test_the_mean_of_the_regions_reaches_the_backbone_at_once() -> None:
    model, (video, regions) = small(graph="avgpool").train(), clips()
    F.cross_entropy(model(video, regions), torch.tensor([0, 1, 2])).backward()
    assert all(
        parameter.grad is not None and parameter.grad.any() for parameter in model.parameters()
    )


@pytest.mark.parametrize("options", KINDS)
def test_boxes_that_do_not_exist_have_no_influence(options: dict[str, Any]) -> None:
    model, (video, regions) = awake(small(**options)), clips()
    expected = model(video, regions)
    for rubbish in (float("nan"), 1e6, -50.0):
        boxes = regions.boxes_xyxy.masked_fill(~regions.mask[..., None], rubbish)
        assert torch.equal(model(video, Regions(boxes, regions.scores * 0, regions.mask)), expected)
    padding = torch.zeros(3, FRAMES, 3)
    padded = Regions(
        torch.cat([regions.boxes_xyxy, torch.full((3, FRAMES, 3, 4), 20.0)], dim=2),
        torch.cat([regions.scores, padding], dim=2),
        torch.cat([regions.mask, padding.bool()], dim=2),
    )
    assert_close_to_scale(model(video, padded), expected, rel=1e-4)
    fewer = Regions(regions.boxes_xyxy, regions.scores, regions.mask & (torch.arange(COUNT) > 0))
    assert not torch.allclose(model(video, fewer), expected)


@pytest.mark.parametrize("options", KINDS)
def test_clips_without_any_box_are_scored_by_the_backbone(options: dict[str, Any]) -> None:
    model, (video, regions) = awake(small(**options)), clips()
    nothing = Regions(regions.boxes_xyxy, regions.scores, torch.zeros_like(regions.mask))
    features = model.reduce(model.stem(model.pixels(video)))
    vector = torch.cat([features.mean(dim=(2, 3, 4)), torch.zeros(3, 16)], dim=1)
    assert_close_to_scale(model(video, nothing), model.classifier(vector))
    model.train()(video, nothing).sum().backward()
    assert all(
        torch.isfinite(parameter.grad).all()
        for parameter in model.parameters()
        if parameter.grad is not None
    )


@pytest.mark.parametrize("options", KINDS)
def test_order_of_boxes_and_size_of_the_batch_do_not_matter(options: dict[str, Any]) -> None:
    model, (video, regions) = awake(small(**options)), clips()
    expected = model(video, regions)
    order = torch.tensor([2, 0, 3, 1])
    turned = Regions(
        regions.boxes_xyxy[:, :, order], regions.scores[:, :, order], regions.mask[:, :, order]
    )
    assert_close_to_scale(model(video, turned), expected, rel=1e-4)
    assert_close_to_scale(model(video[1:2], regions.part(1, 2)), expected[1:2], rel=1e-4)


def test_boxes_of_every_second_frame_are_used() -> None:
    model, (video, regions) = awake(small()), clips()
    expected = model(video, regions)
    odd = regions.boxes_xyxy.clone()
    odd[:, 1::2] += 7
    assert torch.equal(model(video, Regions(odd, regions.scores, regions.mask)), expected)
    even = regions.boxes_xyxy.clone()
    even[:, 2] += 7
    assert not torch.equal(model(video, Regions(even, regions.scores, regions.mask)), expected)


class Ramp(nn.Module):
    """A backbone of stride 16 whose channels are the index of the column and of the row of its
    map.
    """

    def forward(self, video: Tensor) -> Tensor:
        batch, _, frames, height, width = video.shape
        size = (batch, frames // 2, -(-height // 16), -(-width // 16))
        column, row = (
            torch.arange(size[3]).float().expand(size),
            torch.arange(size[2]).float()[:, None].expand(size),
        )
        return torch.stack([column, row], dim=1)


@pytest.mark.parametrize("size", [(48, 48), (64, 112), (56, 75)])
def test_boxes_are_pixels_of_whatever_frame_is_given(size: tuple[int, int]) -> None:
    """A frame of another size than in training is scored whole; where its sides are no multiple of
    16, the map is a little denser.
    """
    model = small()
    model.stem, model.reduce = Ramp(), nn.Identity()
    low = 10 + torch.rand(1, FRAMES, COUNT, 2) * 10
    boxes = torch.cat([low, low + 2 + torch.rand(1, FRAMES, COUNT, 2) * 16], dim=-1)
    exists = torch.ones(1, FRAMES, COUNT, dtype=torch.bool)
    video = torch.zeros(1, 3, FRAMES, *size)
    nodes, steps = model.nodes(
        model.reduce(model.stem(video)), video, Regions(boxes, exists.float(), exists)
    )
    assert torch.equal(steps.boxes_xyxy, boxes[:, ::2])
    end = (
        low[:, ::2] + 6.5 / 7 * (boxes - low.repeat(1, 1, 1, 2))[:, ::2, :, 2:]
    )  # the mean of the points of the last of seven cells
    cells = torch.tensor([-(-size[1] // 16) / size[1], -(-size[0] // 16) / size[0]])
    assert_close_to_scale(nodes, end * cells - 0.5, rel=1e-4)


def test_a_larger_frame_has_scores() -> None:
    model, (video, regions) = awake(small()), clips()
    larger = F.pad(video, (0, 27, 0, 5))
    assert torch.isfinite(model(larger, regions)).all()
    assert not torch.allclose(model(larger, regions), model(video, regions))


def test_dropout_is_on_the_global_half_and_by_option_on_the_other() -> None:
    video, regions = clips()
    model = awake(small(graph="avgpool", dropout=0.5))
    model.classifier = nn.Identity()
    plain = model(video, regions)
    model.train()
    for module in model.stem.modules():
        module.training = False
    dropped = model(video, regions)
    assert torch.equal(dropped[:, 16:], plain[:, 16:])
    ratio = dropped[:, :16] / plain[:, :16]
    assert set(ratio.round(decimals=4).flatten().tolist()) == {0.0, 2.0}
    assert small(graph_dropout=0.5).graph_dropout.p == 0.5


def test_bf16_stays_close_and_learns() -> None:
    model, (video, regions) = awake(small()), clips()
    plain = model(video, regions)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(video, regions)
    assert (rough.float() - plain).norm() / plain.norm() < 0.05
    rough.float().square().sum().backward()
    assert all(
        torch.isfinite(parameter.grad).all()
        for parameter in model.parameters()
        if parameter.grad is not None
    )


@pytest.mark.slow
def test_compiled_in_one_piece_equals_eager_with_its_gradients() -> None:
    """Traced and differentiated by torch's compiler; without its code generator, which takes
    minutes for a backbone on a CPU.
    """
    model, (video, regions) = awake(small()), clips()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = model(video, regions)
    expected.square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    found = compiled(video, regions)
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
        (
            lambda r: Regions(r.boxes_xyxy[:, :, :0], r.scores[:, :, :0], r.mask[:, :, :0]),
            "with 0 each; give at least one box, masked or not",
        ),
    ],
)
def test_missing_boxes_are_one_line(change: Any, words: str) -> None:
    video, regions = clips()
    with pytest.raises(DataError) as error:
        small().eval()(video, change(regions))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_explanation_holds_the_graphs_that_the_model_has() -> None:
    model, (video, regions) = awake(small()), clips(2)
    with torch.no_grad():
        nodes, steps = model.nodes(model.reduce(model.stem(model.pixels(video))), video, regions)
        links = model.graph.links(nodes, steps.boxes_xyxy, steps.mask)
    explanation = model.explain(video, regions)[1]
    found = explanation.regions
    assert found is not None
    assert found.frames.tolist() == [0, 2, 4]
    assert torch.equal(found.mask, regions.mask[1, ::2])
    assert torch.equal(found.scores, regions.scores[1, ::2])
    boxes = (
        regions.boxes_xyxy[1, [0, 0, 2, 2, 4, 4]] / SIDE
    )  # a frame between two steps shows the step before it
    assert_close_to_scale(explanation.node_boxes_xyxy, boxes)
    assert_close_to_scale(found.overlap[:2], overlaps(steps.boxes_xyxy, steps.mask)[1])
    assert not found.overlap[2].any()
    similarity = links.similarity[1].fill_diagonal_(0)
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


def test_explanation_of_parts() -> None:
    video, regions = clips(1)
    similar, overlapping = (
        awake(small(graph=graph)).explain(video, regions)[0].regions for graph in ("sim", "st")
    )
    assert similar.overlap is None
    assert similar.neighbours.shape[-1] == 5
    assert overlapping.overlap is not None
    assert overlapping.neighbours.shape[-1] == 0
    assert small(graph="none").explain(video) == []
