"""STPyramid as a whole: its levels against plain forms, what each option leaves out, batches,
anchors, gradients, and what it explains.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.nn import functional as F
from vidgraph.models.build_snippets import SnippetOptions
from vidgraph.models.stpyramid import BilinearFusion, STPyramid

from vidgraph.errors import DataError, RecipeError
from vidgraph.models.build import create_model
from vidgraph.models.compact_bilinear import CompactBilinear

SIDE, LENGTH, SNIPPETS, CLASSES = 48, 2, 3, 5
WIDTHS: dict[str, Any] = {
    "snippet_width": 24,
    "guidance_width": 32,
    "width": 40,
    "attention_width": 8,
}
FLOW = {"features": ["motion"]}
VARIANTS: dict[str, dict[str, Any]] = {
    "pyramid": {},
    "pooled guidance": {"guidance": "pooled"},
    "concatenated": {"snippet_fusion": "concat", "stream_fusion": "concat"},
    "no normalisation": {"snippet_post": "none", "guidance_post": "none", "stream_post": "none"},
    "no relu": {"attention_relu": False},
    "gap": {"stack_layout": "gap"},
    "auxiliary": {"auxiliary": 0.3},
    "model B": {"features": ["visual", "motion"], "num_stacks": 1},
    "model C": {"features": ["visual", "motion"]},
    "flow, one path": FLOW | {"num_stacks": 1},
    "flow, sum": FLOW | {"snippet_fusion": "sum"},
    "flow, five paths": FLOW | {"num_stacks": 5},
    "attention, one snippet": {"features": ["attention"], "num_stacks": 1},
    "attention, concatenated": {"features": ["attention"], "snippet_fusion": "concat"},
    "frames": {"features": ["visual"]},
}


def small(**options: Any) -> STPyramid:
    """Small networks, 3 x 3 cells of 256 channels, without dropout."""
    torch.manual_seed(0)
    sizes = {"size": SIDE, "flow_length": LENGTH, "dropout": 0.0}
    model = create_model("stpyramid_small", CLASSES, **{**sizes, **WIDTHS, **options})
    assert isinstance(model, STPyramid)
    return model


def awake(model: STPyramid) -> STPyramid:
    """In evaluation mode, with an attention that is not even."""
    if model.attention is not None:
        nn.init.normal_(model.attention.pool.conv2.weight, std=3.0)
    nn.init.normal_(model.classifier.weight)
    return model.eval()


def clips(model: nn.Module, batch: int = 2, anchors: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """What the model eats, as noise."""
    generator, spec = torch.Generator().manual_seed(seed), model.input_spec
    found: dict[str, Tensor] = {}
    if spec.channels:
        found["video"] = torch.randint(
            0, 256, (batch, 3, anchors, SIDE, SIDE), dtype=torch.uint8, generator=generator
        )
    if spec.flow_length:
        shape = (batch, anchors, spec.num_stacks, 2 * spec.flow_length, SIDE, SIDE)
        found["flow"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return found


def test_the_whole_equals_its_equations_written_out() -> None:
    """Each level by hand from the maps of the two networks, with sketches applied by explicit sums
    over channels.
    """
    model = awake(small(snippet_post="none", guidance_post="none", stream_post="none"))
    inputs = clips(model)
    assert model.spatial is not None
    assert model.temporal is not None
    assert model.snippet_fusion is not None
    assert model.attention is not None
    with torch.no_grad():
        appearance = model.spatial.backbone(
            model.spatial.pixels(inputs["video"])[:, :, 0]
        )  # [B, C, 3, 3]
        of_snippet = [
            model.temporal.backbone((inputs["flow"][:, 0, k].float() - 127.5) / (255 * 0.226))
            for k in range(SNIPPETS)
        ]
        motion = by_place(model.snippet_fusion.sketch, *of_snippet)
        merged = by_place(model.attention.merge.sketch, appearance, motion)
        pool = model.attention.pool
        logits = F.conv2d(
            F.conv2d(merged, pool.conv1.weight, pool.conv1.bias).relu(), pool.conv2.weight
        )
        weights = logits.flatten(1).softmax(1).reshape(2, 3, 3)
        attended = torch.stack([(appearance[b] * weights[b]).sum((1, 2)) for b in range(2)])
        vectors = (appearance.mean((2, 3)), attended, motion.mean((2, 3)))
        fused = sketched(model.stream_fusion.sketch, *vectors)
        expected = fused @ model.classifier.weight.T + model.classifier.bias
        assert_close_to_scale(model(**inputs), expected, rel=2e-3)
    assert weights.max() > 2 / 9


def sketched(layer: CompactBilinear, *vectors: Tensor) -> Tensor:
    """Vectors [B, n] by circular convolution of their sketches, summed up place by place: [B,
    d].
    """
    found = None
    for i, x in enumerate(vectors):
        buckets, signs = layer.get_buffer(f"buckets_{i}"), layer.get_buffer(f"signs_{i}")
        sketch = torch.zeros(len(x), layer.out_dim, dtype=torch.float64)
        for channel in range(x.shape[1]):
            sketch[:, buckets[channel]] += (signs[channel] * x[:, channel]).double()
        found = (
            sketch
            if found is None
            else sum(sketch[:, [j]] * found.roll(j, dims=1) for j in range(layer.out_dim))
        )
    assert found is not None
    return found.float()


def by_place(layer: CompactBilinear, *maps: Tensor) -> Tensor:
    """The same at every place of maps [B, n, h, w]."""
    rows = [[sketched(layer, *(x[:, :, y, z] for x in maps)) for z in range(3)] for y in range(3)]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def test_attention_starts_as_the_plain_mean() -> None:
    """At initialisation the attended vector is the visual one, whatever moves."""
    model = small().eval()
    inputs = clips(model)
    with torch.no_grad():
        vectors = model.vectors(*model.maps(**inputs))
    assert_close_to_scale(vectors["attention"], vectors["visual"])
    with torch.no_grad():
        vectors = awake(model).vectors(*model.maps(**inputs))
    assert not torch.allclose(vectors["attention"], vectors["visual"], rtol=1e-2)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_clip_scores_the_same_alone_and_in_a_batch(name: str) -> None:
    model = awake(small(**VARIANTS[name]))
    inputs = clips(model, batch=3)
    with torch.no_grad():
        together = model(**inputs)
        alone = model(**{key: value[1:2] for key, value in inputs.items()})
    assert_close_to_scale(together[1:2], alone, rel=1e-4)
    assert together.shape == (3, CLASSES)
    assert not torch.allclose(together[0], together[1], rtol=1e-2)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_receives_a_gradient_once_attention_is_not_even(name: str) -> None:
    model = small(**VARIANTS[name]).train()
    inputs, labels = clips(model, batch=3), torch.tensor([0, 1, 2])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(
        3
        # the second convolution of the attention starts at zero, and the first one learns only
        # through it
    ):
        optimizer.zero_grad()
        sum(
            weight * F.cross_entropy(logits, labels)
            for weight, logits in model.training_logits(**inputs)
        ).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert all(
        value.grad is not None and value.grad.isfinite().all() and value.grad.any()
        for value in model.parameters()
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_only_what_the_features_need_is_built(name: str) -> None:
    options = VARIANTS[name]
    model, features = small(**options), options.get("features", ["visual", "attention", "motion"])
    assert (model.spatial is not None) == bool({"visual", "attention"} & set(features))
    assert (model.temporal is not None) == bool({"motion", "attention"} & set(features))
    assert (model.attention is not None) == ("attention" in features)
    spec = model.input_spec
    assert (spec.channels, spec.num_frames, spec.num_segments) == (
        3 if model.spatial is not None else 0,
        1,
        1,
    )
    assert (spec.flow_length, spec.num_stacks) == (
        (LENGTH, options.get("num_stacks", 3)) if model.temporal is not None else (0, 1)
    )
    assert spec.stack_layout == options.get("stack_layout", "interval")


def test_snippets_share_one_network_and_their_order_counts_only_through_the_hashes() -> None:
    """Exchanged snippets give the exchanged inputs of the fusion: the sum does not see it, the
    sketch and the side-by-side do.
    """
    for kind, same in (("sum", True), ("concat", False), ("stcb", False)):
        model = awake(small(features=["motion"], snippet_fusion=kind))
        flow = clips(model)["flow"]
        with torch.no_grad():
            one, other = model(flow=flow), model(flow=flow.flip(2))
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4) is same, kind
    sizes = [
        sum(p.numel() for p in small(features=["motion"], num_stacks=count).parameters())
        for count in (3, 5)
    ]
    assert sizes[0] == sizes[1]


def test_several_anchors_are_averaged() -> None:
    model = awake(small(num_frames=3))
    inputs = clips(model, batch=2, anchors=3)
    with torch.no_grad():
        each = [
            model(video=inputs["video"][:, :, [t]], flow=inputs["flow"][:, [t]]) for t in range(3)
        ]
        assert_close_to_scale(model(**inputs), torch.stack(each).mean(0), rel=1e-4)
    assert model.input_spec.num_segments == 3


def test_motion_is_pooled_after_it_is_fused() -> None:
    """The fusion is not linear: fusing pooled maps would be another network."""
    model = awake(small(features=["motion"]))
    maps = [torch.rand(2, 256, 3, 3) for _ in range(SNIPPETS)]
    assert model.snippet_fusion is not None
    after = model.snippet_fusion(*maps).mean((2, 3))
    before = model.snippet_fusion(*(m.mean((2, 3)) for m in maps))
    assert (after - before).norm() > 0.05 * before.norm()


def test_pooled_guidance_is_the_same_at_every_cell() -> None:
    """Of a motion map without differences between cells, both kinds of guidance are one."""
    found = []
    for kind in ("map", "pooled"):
        model = awake(small(guidance=kind))
        assert model.attention is not None
        appearance = torch.rand(2, 256, 3, 3, generator=torch.Generator().manual_seed(1))
        even = torch.rand(2, 24, 1, 1, generator=torch.Generator().manual_seed(2)).expand(
            2, 24, 3, 3
        )
        uneven = torch.rand(2, 24, 3, 3, generator=torch.Generator().manual_seed(3))
        torch.manual_seed(4)
        nn.init.normal_(model.attention.pool.conv1.weight)
        nn.init.normal_(model.attention.pool.conv2.weight)
        found.append([model.attention(appearance, motion)[1] for motion in (even, uneven)])
    assert_close_to_scale(found[0][0], found[1][0], rel=1e-4)
    assert not torch.allclose(found[0][1], found[1][1], atol=1e-3)


def test_hashes_differ_between_levels_and_are_saved() -> None:
    model, other = small(), small(sketch_seed=1)
    buckets = {name: value for name, value in model.state_dict().items() if "buckets" in name}
    assert set(buckets) == {
        *(f"snippet_fusion.sketch.buckets_{i}" for i in range(3)),
        *(f"attention.merge.sketch.buckets_{i}" for i in range(2)),
        *(f"stream_fusion.sketch.buckets_{i}" for i in range(3)),
    }
    signs = [
        value for name, value in model.state_dict().items() if "signs" in name and len(value) == 256
    ]
    assert all(not torch.equal(one, two) for i, one in enumerate(signs) for two in signs[:i])
    inputs = clips(model)
    model, other = awake(model), awake(other)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(**inputs), other(**inputs))


def test_unit_length_is_scaled_to_one_per_channel() -> None:
    layer = BilinearFusion([6, 7], "stcb", 64, "ssqrt_l2", 0)
    fused = layer(torch.randn(5, 6), torch.randn(5, 7))
    assert_close_to_scale(fused.square().mean(1), torch.ones(5), rel=1e-4)


def test_normalisation_makes_the_first_loss_that_of_guessing() -> None:
    """Log of the number of classes, and gradients that a rate of any other network suits; without
    it both are out of all proportion.
    """
    found = {}
    for post in ("ssqrt_l2", "none"):
        own = {"snippet_post": "ssqrt"} if post != "none" else {"snippet_post": "none"}
        model = small(**own, guidance_post=post, stream_post=post).train()
        loss = F.cross_entropy(model(**clips(model, batch=3)), torch.tensor([0, 1, 2]))
        loss.backward()
        norms = [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
        found[post] = (float(loss.detach()), sum(norm**2 for norm in norms) ** 0.5)
    loss, norm = found["ssqrt_l2"]
    assert loss == pytest.approx(math.log(CLASSES), abs=0.05)
    assert norm < 20
    assert found["none"][1] > 1000 * norm


def test_a_single_part_passes_as_it_is() -> None:
    for kind in ("stcb", "concat", "sum"):
        layer = BilinearFusion([6], kind, 64, "ssqrt_l2", 0)
        x = torch.randn(2, 6, 3, 3)
        assert layer(x) is x
        assert (layer.out_channels, layer.sketch) == (6, None)


def test_auxiliary_losses_are_of_the_vectors_alone() -> None:
    model = small(auxiliary=0.25).train()
    inputs = clips(model)
    weights, logits = zip(*model.training_logits(**inputs), strict=True)
    assert weights == (1.0, 0.25, 0.25)
    vectors = model.vectors(*model.maps(**inputs))
    assert_close_to_scale(logits[2], model.auxiliary["motion"](vectors["motion"]))
    plain = small()
    assert len(plain.auxiliary) == 0
    assert [weight for weight, _ in plain.training_logits(**inputs)] == [1.0]


def test_the_explanation_is_the_attention_of_each_frame() -> None:
    model = awake(small(num_frames=2))
    inputs = clips(model, batch=2, anchors=2)
    first, second = model.explain(**inputs)
    assert first.maps is not None
    assert second.maps is not None
    assert first.maps.shape == (2, 3, 3)
    assert_close_to_scale(first.maps.sum((1, 2)), torch.ones(2))
    assert (first.node_boxes_xyxy.shape, first.attention.shape, first.names) == (
        (2, 0, 4),
        (0, 2, 0, 0),
        (),
    )
    alone = model.explain(**{key: value[1:] for key, value in inputs.items()})[0].maps
    assert alone is not None
    assert_close_to_scale(second.maps, alone, rel=1e-4)
    assert not torch.allclose(first.maps, second.maps, atol=1e-3)
    assert small(features=["visual", "motion"]).eval().explain(**inputs) == []
    assert small(features=["visual"]).eval().explain(video=inputs["video"]) == []


def test_counts_beyond_the_two_networks_are_those_of_the_equations() -> None:
    """BN-Inception twice, 10,270,240 and 17 more channels of 64 7 x 7 kernels; attention and
    classifier; sketches learn nothing.
    """
    with torch.device("meta"):
        model = create_model("stpyramid_bn_inception", 101)
    sizes = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert sizes["spatial"] == 10_270_240
    assert sizes["temporal"] == 10_270_240 + 17 * 64 * 49
    assert sizes["attention"] == 2048 * 64 + 64 + 64
    assert sizes["classifier"] == 4096 * 101 + 101
    assert (
        sizes["snippet_fusion"]
        == sizes["stream_fusion"]
        == sizes["dropout"]
        == sizes["auxiliary"]
        == 0
    )
    live = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert live == ["spatial.backbone.conv1_7x7_s2_bn", "temporal.backbone.conv1_7x7_s2_bn"]


def test_missing_or_other_inputs_are_named() -> None:
    model = small()
    inputs = clips(model)
    with pytest.raises(DataError, match="optical flow, and the clips came without"):
        model(video=inputs["video"])
    with pytest.raises(DataError, match="looks at frames, and the clips came without"):
        model(flow=inputs["flow"])
    with pytest.raises(DataError, match=r"takes flow \[B, T, 3, 4, H, W\]"):
        model(video=inputs["video"], flow=inputs["flow"][:, :, :2])
    with pytest.raises(
        DataError, match=r"video is of 2 clips of 1 frames, and the flow of 1 clips of 1"
    ):
        model(video=inputs["video"], flow=inputs["flow"][:1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": ["visual", "sound"]}, "features"),
        ({"features": []}, "each once"),
        ({"features": ["motion", "motion"]}, "each once"),
        ({"stream_fusion": "sum"}, "equal channels"),
        ({"snippet_fusion": "mean"}, "snippet_fusion"),
        ({"width": 0}, "at least 1"),
        ({"auxiliary": -1.0}, "auxiliary"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_stacks": 0}, "num_stacks"),
        ({"batch_norm": "frozen"}, "batch_norm"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        small(**options)


def test_snippet_options_are_the_input_spec() -> None:
    spec = SnippetOptions(
        num_stacks=5,
        flow_length=4,
        stack_interval=7,
        max_stack_interval=9,
        stack_layout="gap",
    ).input_spec(True, True)
    assert (
        spec.num_stacks,
        spec.flow_length,
        spec.stack_interval,
        spec.max_stack_interval,
        spec.stack_layout,
    ) == (
        5,
        4,
        7,
        9,
        "gap",
    )
    assert SnippetOptions(num_frames=16, stride_frames=1).input_spec(True, False).stride_frames == 1
    assert (
        math.prod(
            SnippetOptions().input_spec(False, True).to_dict()[key]
            for key in ("flow_length", "num_stacks")
        )
        == 10
    )
