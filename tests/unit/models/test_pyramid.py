"""STPyramid: its levels against plain forms, what each option leaves out, frames per clip, what it
explains, and costs. Laws of every model are in test_contract.py.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from drawn import noise_clips
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.errors import DataError, RecipeError
from vidgraph.evaluation.profile import profile_model
from vidgraph.models.build import create_model
from vidgraph.models.compact_bilinear import CompactBilinear
from vidgraph.models.pyramid import AttentionPool, BilinearFusion, STPyramid

SIDE, LENGTH, STACKS, CLASSES = 48, 2, 3, 5
WIDTHS = {"stack_width": 24, "guidance_width": 32, "width": 40, "attention_width": 8}


def small(input: dict[str, Any] | None = None, **fusion: Any) -> STPyramid:
    """Small networks, 3 x 3 cells of 256 channels, without dropout."""
    torch.manual_seed(0)
    spec = {"height": SIDE, "width": SIDE, "flow_length": LENGTH, **(input or {})}
    options = {"dropout": 0.0, **WIDTHS, **fusion}
    model = create_model("stpyramid_small", CLASSES, input=spec, fusion=options)
    assert isinstance(model, STPyramid)
    return model


def awake(model: STPyramid) -> STPyramid:
    """In evaluation mode, with an attention that is not even."""
    if model.attention is not None:
        nn.init.normal_(model.attention.conv2.weight, std=3.0)
    nn.init.normal_(model.classifier.weight)
    return model.eval()


# ---- the whole -----------------------------------------------------------------------------------


def test_the_whole_equals_its_equations_written_out() -> None:
    """Each level by hand from the maps of the two networks, with sketches applied by explicit sums
    over channels."""
    model = awake(small(stack_post="none", guidance_post="none", stream_post="none"))
    inputs = noise_clips(model.spec)
    frames, flow, pool = model.frames, model.flow, model.attention
    assert frames is not None
    assert flow is not None
    assert pool is not None
    assert model.stack_fusion is not None
    assert model.guidance_fusion is not None
    with torch.no_grad():
        images = frames.normalize(inputs["video"])[:, :, 0]
        appearance = frames.backbone.network(images)  # [B, C, 3, 3]
        of_stacks = [
            flow.backbone.network((inputs["flow"][:, 0, k].float() - 127.5) / (255 * 0.226))
            for k in range(STACKS)
        ]
        motion = by_cell(model.stack_fusion.sketch, *of_stacks)
        merged = by_cell(model.guidance_fusion.sketch, appearance, motion)
        hidden = F.conv2d(merged, pool.conv1.weight, pool.conv1.bias).relu()
        logits = F.conv2d(hidden, pool.conv2.weight)
        weights = logits.flatten(1).softmax(1).reshape(2, 3, 3)
        attended = torch.stack([(appearance[b] * weights[b]).sum((1, 2)) for b in range(2)])
        vectors = (appearance.mean((2, 3)), attended, motion.mean((2, 3)))
        fused = sketched(model.stream_fusion.sketch, *vectors)
        expected = fused @ model.classifier.weight.T + model.classifier.bias
        assert_close_to_scale(model(**inputs), expected, rel=2e-3)
    assert weights.max() > 2 / 9


def sketched(layer: CompactBilinear | None, *vectors: Tensor) -> Tensor:
    """Vectors [B, n] by circular convolution of their sketches, added up one by one: [B, d]."""
    assert layer is not None
    found = None
    for i, x in enumerate(vectors):
        buckets, signs = layer.get_buffer(f"buckets_{i}"), layer.get_buffer(f"signs_{i}")
        sketch = torch.zeros(len(x), layer.out_channels, dtype=torch.float64)
        for channel in range(x.shape[1]):
            sketch[:, buckets[channel]] += (signs[channel] * x[:, channel]).double()
        rolled = range(layer.out_channels)
        found = sketch if found is None else sum(sketch[:, [j]] * found.roll(j, 1) for j in rolled)
    assert found is not None
    return found.float()


def by_cell(layer: CompactBilinear | None, *maps: Tensor) -> Tensor:
    """The same at every cell of maps [B, n, h, w]."""
    rows = [[sketched(layer, *(x[:, :, y, z] for x in maps)) for z in range(3)] for y in range(3)]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


VARIANTS: dict[str, dict[str, Any]] = {
    "pyramid": {},
    "model B": {"features": ["visual", "motion"], "input": {"num_stacks": 1}},
    "flow, five paths": {"features": ["motion"], "input": {"num_stacks": 5}},
    "attention, concatenated": {"features": ["attention"], "stack_fusion": "concat"},
    "frames": {"features": ["visual"]},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_only_what_the_features_need_is_built(name: str) -> None:
    options = VARIANTS[name]
    model, features = small(**options), set(options.get("features", ["attention"]))
    takes_frames, takes_flow = bool(features - {"motion"}), bool(features - {"visual"})
    assert (model.frames is not None, model.flow is not None) == (takes_frames, takes_flow)
    assert (model.attention is not None) == ("attention" in features)
    assert (model.spec.channels, model.spec.num_frames) == (3 * takes_frames, 1)
    assert model.spec.flow_length == LENGTH * takes_flow


@pytest.mark.parametrize(("kind", "same"), [("sum", True), ("concat", False), ("stcb", False)])
def test_stacks_share_one_network_and_their_order_counts_in_the_fusion(
    kind: str, same: bool
) -> None:
    model = awake(small(features=["motion"], stack_fusion=kind))
    flow = noise_clips(model.spec)["flow"]
    with torch.no_grad():
        one, other = model(flow=flow), model(flow=flow.flip(2))
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-4) is same
    more = small(features=["motion"], stack_fusion=kind, input={"num_stacks": 5})
    networks = [sum(p.numel() for p in m.flow.parameters()) for m in (model, more) if m.flow]
    assert networks[0] == networks[1]


def test_several_frames_are_averaged() -> None:
    model = awake(small({"num_frames": 3}))
    inputs = noise_clips(model.spec)
    video, flow = inputs["video"], inputs["flow"]
    with torch.no_grad():
        each = [model(video=video[:, :, [t]], flow=flow[:, [t]]) for t in range(3)]
        assert_close_to_scale(model(**inputs), torch.stack(each).mean(0), rel=1e-4)


def test_pooled_guidance_is_the_same_at_every_cell() -> None:
    """Of a motion map without differences between cells, both kinds of guidance are one."""
    generator = torch.Generator().manual_seed(1)
    appearance, uneven = (torch.rand(2, n, 3, 3, generator=generator) for n in (256, 24))
    even = torch.rand(2, 24, 1, 1, generator=generator).expand(2, 24, 3, 3)
    found = []
    for kind in ("map", "pooled"):
        model = awake(small(guidance=kind))
        assert model.attention is not None
        torch.manual_seed(4)
        nn.init.normal_(model.attention.conv1.weight)
        nn.init.normal_(model.attention.conv2.weight)
        found.append([model.attend(appearance, motion)[1] for motion in (even, uneven)])
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(found[0][1], found[1][1], atol=1e-3)


def test_hashes_differ_between_levels_and_are_saved() -> None:
    model, other = small(), small(sketch_seed=1)
    signs = [
        value
        for name, value in model.state_dict().items()
        if "sketch.signs_" in name and len(value) == 256
    ]
    assert len(signs) == 6
    assert all(not torch.equal(one, two) for i, one in enumerate(signs) for two in signs[:i])
    inputs = noise_clips(model.spec)
    model, other = awake(model), awake(other)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(**inputs), other(**inputs))


def test_normalisation_makes_the_first_loss_that_of_guessing() -> None:
    """Log of the number of classes, and gradients that a rate of any other network suits; without
    it both are out of all proportion."""
    found = {}
    for post, of_stacks in (("ssqrt_l2", "ssqrt"), ("none", "none")):
        model = small(stack_post=of_stacks, guidance_post=post, stream_post=post).train()
        loss = F.cross_entropy(model(**noise_clips(model.spec, batch=3)), torch.tensor([0, 1, 2]))
        loss.backward()
        norms = [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
        found[post] = (float(loss.detach()), sum(norm**2 for norm in norms) ** 0.5)
    loss, norm = found["ssqrt_l2"]
    assert loss == pytest.approx(math.log(CLASSES), abs=0.05)
    assert norm < 20
    assert found["none"][1] > 1000 * norm


def test_the_explanation_is_the_attention_of_each_frame() -> None:
    model = awake(small({"num_frames": 2}))
    inputs = noise_clips(model.spec)
    first, second = (explanation.maps for explanation in model.explain(**inputs))
    assert first is not None
    assert second is not None
    assert first.shape == (2, 3, 3)
    torch.testing.assert_close(first.sum((1, 2)), torch.ones(2))
    alone = model.explain(**{key: value[1:] for key, value in inputs.items()})[0].maps
    torch.testing.assert_close(second, alone, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(first, second, atol=1e-3)
    assert small(features=["visual"]).eval().explain(video=inputs["video"][:, :, :1]) == []


# ---- parts ---------------------------------------------------------------------------------------


def test_maps_are_fused_cell_by_cell_and_one_part_passes_as_it_is() -> None:
    x, y = torch.randn(2, 6, 3, 4), torch.randn(2, 7, 3, 4)
    for kind in ("stcb", "concat"):
        layer = BilinearFusion([6, 7], kind, 64, "ssqrt_l2", 0)
        fused = layer(x, y)
        assert fused.shape == (2, layer.out_channels, 3, 4)
        assert_close_to_scale(fused[:, :, 1, 2], layer(x[:, :, 1, 2], y[:, :, 1, 2]))
        single = BilinearFusion([6], kind, 64, "ssqrt_l2", 0)
        assert single(x) is x
        assert single.out_channels == 6
    layer = BilinearFusion([6, 7], "stcb", 64, "ssqrt_l2", 0)
    vector = y[:, :, 0, 0]
    expected = layer(x, vector[..., None, None].expand_as(y))
    assert_close_to_scale(layer(x, vector), expected)
    # Unit length is scaled to one per channel.
    torch.testing.assert_close(layer(x, y).square().mean(1), torch.ones(2, 3, 4))


def some_maps() -> tuple[Tensor, Tensor]:
    """Features [3, 5, 4, 6] and guidance [3, 7, 4, 6]."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(3, 5, 4, 6, generator=draw), torch.randn(3, 7, 4, 6, generator=draw)


@pytest.mark.parametrize("relu", [True, False])
def test_attention_equals_a_loop_over_cells(relu: bool) -> None:
    """Weights sum to one over the cells; a softmax over the one channel would be 1 everywhere."""
    torch.manual_seed(0)
    pool, (features, guidance) = AttentionPool(7, width=9, relu=relu), some_maps()
    nn.init.normal_(pool.conv2.weight)
    nn.init.normal_(pool.conv1.bias)
    pooled, weights = pool(features, guidance)
    w1, w2 = pool.conv1.weight[:, :, 0, 0], pool.conv2.weight[0, :, 0, 0]
    for b in range(3):
        hidden = [w1 @ guidance[b, :, y, x] + pool.conv1.bias for y in range(4) for x in range(6)]
        raised = torch.stack([(w2 @ (h.relu() if relu else h)).exp() for h in hidden])
        expected = raised / raised.sum()
        torch.testing.assert_close(weights[b].flatten(), expected)
        by_cell = [expected[y * 6 + x] * features[b, :, y, x] for y in range(4) for x in range(6)]
        torch.testing.assert_close(pooled[b], torch.stack(by_cell).sum(dim=0))
    assert weights.max() > 3 * weights.min()


def test_attention_starts_as_average_pooling_and_all_of_it_learns_by_the_second_step() -> None:
    torch.manual_seed(0)
    pool, (features, guidance) = AttentionPool(7, width=8), some_maps()
    pooled, weights = pool(features, guidance)
    assert torch.equal(weights, torch.full((3, 4, 6), 1 / 24))
    torch.testing.assert_close(pooled, features.mean(dim=(2, 3)), rtol=1e-6, atol=1e-7)
    optimizer, target, moved = torch.optim.SGD(pool.parameters(), lr=0.5), torch.randn(3, 5), []
    for _ in range(2):
        optimizer.zero_grad()
        (pool(features, guidance)[0] * target).sum().backward()
        moved.append(
            {name for name, p in pool.named_parameters() if p.grad is not None and p.grad.any()}
        )
        optimizer.step()
    assert moved == [{"conv2.weight"}, {"conv1.weight", "conv1.bias", "conv2.weight"}]


def test_attention_in_bf16_stays_close_and_weights_still_sum_to_one() -> None:
    torch.manual_seed(0)
    pool, (features, guidance) = AttentionPool(7), some_maps()
    nn.init.normal_(pool.conv2.weight)
    expected, _ = pool(features, guidance)
    with torch.autocast("cpu", torch.bfloat16):
        pooled, weights = pool(features.bfloat16(), guidance)
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(3))
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.float(), expected, rtol=0.05, atol=0.05)


# ---- sizes, and what does not fit ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "gmac"),
    [
        ("stpyramid_bn_inception", 21_138_789, "10.14"),
        ("stpyramid_r50", 47_614_373, "18.36"),
        ("stpyramid_vgg16", 29_984_165, "62.87"),
        ("stpyramid_small", 2_568_773, "0.70"),
        ("two_stream_bn_inception", 20_800_842, "4.73"),
        ("two_stream_vgg16", 29_542_794, "31.18"),
        ("two_stream_small", 2_484_266, "0.33"),
        ("lrcn_bn_inception", 23_214_794, "64.42"),
        ("lrcn_small", 2_839_274, "2.26"),
    ],
)
def test_costs(name: str, params: int, gmac: str) -> None:
    with torch.device("meta"):
        profile = profile_model(create_model(name))
    assert (profile["params"], f"{profile['gmac']['total']:.2f}") == (params, gmac)


def test_missing_or_other_inputs_are_named() -> None:
    model = small()
    inputs = noise_clips(model.spec)
    video, flow = inputs["video"], inputs["flow"]
    for given, words in (
        ({"video": video}, "optical flow, and the clips came without"),
        ({"flow": flow}, "takes frames, and the clips came without"),
        ({"video": video, "flow": flow[:, :, :2]}, r"takes flow \[B, T, 3, 4, H, W\]"),
        ({"video": video, "flow": flow[:1]}, r"2 clips of 1 frames, and the flow of 1 clips of 1"),
    ):
        with pytest.raises(DataError, match=words):
            model(**given)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": ["visual", "sound"]}, "fusion.features"),
        ({"stream_fusion": "sum"}, "equal channels"),
        ({"dropout": 1.0}, "fusion.dropout"),
        ({"num_snipets": 2}, "unknown key fusion.num_snipets"),
        ({"input": {"flow_length": 0}}, "flow_length of at least 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        small(**options)


def test_a_network_that_halves_time_has_no_map_of_every_frame() -> None:
    resnet = {"type": "resnet3d", "depths": [1, 1, 1, 1], "width": 4}
    with pytest.raises(RecipeError, match="map of every frame; no resnet3d has it"):
        create_model("stpyramid_small", 3, input={"num_frames": 4}, frames={"backbone": resnet})
