"""Every head on every backbone, and every published model at a small size, keeps the contract of
`VideoModel`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.backbones.base import FrozenBatchNorm
from vidgraph.backbones.video import FAMILIES
from vidgraph.models.base import ClipModel, VideoModel
from vidgraph.models.build import create_model, merged
from vidgraph.models.published import NAMED, ModelOptions
from vidgraph.records import ClipBatch, InputSpec, Regions
from vidgraph.weights import from_pretrained, save_weights

CLASSES = 3
CLIP_MODELS = [name for name, (options, _) in NAMED.items() if isinstance(options, ModelOptions)]
HEADS: dict[str, dict[str, Any]] = {
    "pooled": {"type": "pooled"},
    "pooled windows": {"type": "pooled", "windows": "probabilities"},
    "pooled rstg": {"type": "pooled", "rstg": {"width": 8, "norm": "layer"}},
    "statistics": {"type": "statistics", "rstg": {"width": 8, "norm": "layer"}},
    "temporal_transformer": {"type": "temporal_transformer", "width": 8, "dropout": 0.1},
    "attentive_probe": {"type": "attentive_probe", "width": 8, "dropout": 0.1},
    "segments": {"type": "segments", "dropout": 0.1},
    "mean_lstm": {"type": "mean_lstm", "width": 8},
    "conv_lstm": {"type": "conv_lstm", "width": 8, "conv_width": 8},
    "rstg": {"type": "rstg", "width": 16, "extras": {"he": True}},
    "strg": {"type": "strg", "width": 8},
}


def _video_transformer(kind: str) -> dict[str, Any]:
    """A tiny one, whose clips are square."""
    width = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 1}
    clip = {"num_frames": 4, "image_size": 64, "intermediate_size": 24, "crop_size": 64}
    config = {"model_type": kind, **width, **clip}
    how = {"type": "hf", "id": kind, "weights": None, "config": config}
    return {"backbone": how, "input": {"width": 64}}


_RESNET = {"type": "resnet3d", "depths": [1, 2, 1, 1], "width": 4}
_TIMM = {"type": "timm", "weights": None}
_NON_LOCAL = {"type": "nonlocal", "blocks": ["layer2_0"]}
_RSTG_TO_MAP = {"type": "rstg", "blocks": ["layer1_0", "layer2_0"], "graph": {"width": 8}}
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet3d": {"backbone": _RESNET},
    "c2d": {"backbone": {**_RESNET, "inflation": "none", "stem": "valid"}},
    "resnet3d + nonlocal": {"backbone": _RESNET, "inserted": _NON_LOCAL},
    "resnet3d + rstg": {"backbone": _RESNET, "inserted": _RSTG_TO_MAP},
    "digits": {"backbone": {"type": "digits"}},
    "digits + resnet3d": {
        "backbone": {"type": "digits", "resnet3d": {**_RESNET, "stem": "digit_maps"}},
        "inserted": {**_NON_LOCAL, "pool": False},
    },
    "simple_c2d": {"backbone": {"type": "simple_c2d", "width": 8}},
    "small_resnet2d": {"backbone": {"type": "small_resnet2d", "widths": [4, 8, 8]}},
    "timm:resnet10t@16": {"backbone": {**_TIMM, "name": "resnet10t", "level": 16}},
    "timm:resnet10t, shifted": {"backbone": {**_TIMM, "name": "resnet10t", "temporal_shift": 0.2}},
    "timm:test_vit": {"backbone": {**_TIMM, "name": "test_vit"}},
    "timm:test_efficientnet": {"backbone": {**_TIMM, "name": "test_efficientnet"}},
    **{f"hf:{kind}": _video_transformer(kind) for kind in FAMILIES},
}


def combined(head: str, backbone: str) -> VideoModel:
    boxes = 3 if head == "strg" else 0
    spec = {"num_frames": 4, "height": 64, "width": 48, "boxes_per_frame": boxes}
    options = merged({"input": spec, "head": HEADS[head]}, BACKBONES[backbone])
    return create_model("pooled", CLASSES, **options)


def shrunk(name: str) -> VideoModel:
    """A published model on short small clips, with narrow layers."""
    options = asdict(NAMED[name][0])
    backbone, long = options["backbone"], options["backbone"].get("stem") == "long"
    changes: dict[str, Any] = {"input": {"num_frames": 16 if long else 8}}
    changes["input"] |= {"height": 64, "width": 64}
    if backbone["type"] != "digits":
        changes["backbone"] = {"width": 8}
    if options["head"]["type"] in ("rstg", "strg"):
        changes["head"] = {"width": 16}
    if options["head"].get("rstg"):
        changes["head"] = {"rstg": {"width": 16}}
    if (options["inserted"] or {}).get("type") == "rstg":
        changes["inserted"] = {"graph": {"width": 16}}
    return create_model(name, CLASSES, **(changes if name != "digit_stem" else {}))


def shrunk_streams(name: str, changes: dict[str, Any]) -> VideoModel:
    """The same for models of frames and flow."""
    spec = {"height": 64, "width": 64, "flow_length": 2, "num_frames": 2}
    if name.startswith("stpyramid"):
        fusion = {"stack_width": 16, "guidance_width": 16, "width": 16, "dropout": 0.1}
        changes = merged({"fusion": fusion}, changes)
    return create_model(name, CLASSES, **merged({"input": spec}, changes))


FUSIONS: dict[str, dict[str, Any]] = {
    "pyramid, pooled guidance": {"guidance": "pooled"},
    "pyramid, concatenated": {"stack_fusion": "concat", "stream_fusion": "concat"},
    "pyramid of flow, sum": {"features": ["motion"], "stack_fusion": "sum"},
    "pyramid, attention": {"features": ["attention"]},
}
STREAM_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in NAMED if name not in CLIP_MODELS and name.endswith("small")},
    "two_stream_bn_inception, frames": ("two_stream_bn_inception", {"flow": None}),
    **{name: ("stpyramid_small", {"fusion": fusion}) for name, fusion in FUSIONS.items()},
    "pyramid on timm": (
        "stpyramid_small",
        {key: {"backbone": {**_TIMM, "name": "resnet10t"}} for key in ("frames", "flow")},
    ),
    "frames alone": ("two_stream_small", {"flow": None}),
    "flow alone": ("two_stream_small", {"frames": None}),
    "two 3D networks": (
        "two_stream_small",
        {"frames": BACKBONES["resnet3d"], "flow": {"backbone": _RESNET, "head": HEADS["pooled"]}},
    ),
}
MODELS: dict[str, Callable[[], VideoModel]] = {
    **{
        f"{head} on {bb}": lambda h=head, b=bb: combined(h, b) for head in HEADS for bb in BACKBONES
    },
    **{name: lambda n=name: shrunk(n) for name in CLIP_MODELS},
    **{
        variant: lambda n=name, c=changes: shrunk_streams(n, c)
        for variant, (name, changes) in STREAM_VARIANTS.items()
    },
}


def example(spec: InputSpec, batch: int = 2) -> dict[str, Any]:
    """Clips of coarse noise, which differ by more than their grain."""
    draw = np.random.RandomState(0)

    def noise(*shape: int) -> Tensor:
        coarse = draw.randint(0, 256, (*shape[:-2], shape[-2] // 16, shape[-1] // 16))
        return torch.from_numpy(coarse.repeat(16, -2).repeat(16, -1).astype(np.uint8))

    frames, size = (batch, spec.num_frames), (spec.height, spec.width)
    video = noise(batch, max(1, spec.channels), spec.num_frames, *size)
    stacks = (spec.num_stacks, 2 * spec.flow_length)
    flow = noise(*frames, *stacks, *size) if spec.flow_length else None
    corner = torch.from_numpy(draw.uniform(0, 0.5, (*frames, max(1, spec.boxes_per_frame), 2)))
    boxes = torch.cat([corner, corner + 0.4], dim=-1).float()
    regions = Regions(boxes, torch.ones(boxes.shape[:3]), torch.ones(boxes.shape[:3]).bool())
    label = torch.arange(batch) % CLASSES
    return ClipBatch(video, label, label, label, [], regions, flow).inputs(spec)


def part(inputs: dict[str, Any], row: int) -> dict[str, Any]:
    return {
        key: value.part(row, row + 1) if isinstance(value, Regions) else value[row : row + 1]
        for key, value in inputs.items()
    }


def learned(model: VideoModel) -> VideoModel:
    """After two steps of training, so that nothing is zero because it starts so; every parameter
    that learns has a gradient in the second."""
    inputs, label = example(model.spec), torch.arange(2) % CLASSES
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0  # so that two steps give it the statistics of these clips
        if isinstance(module, FrozenBatchNorm):
            nn.init.constant_(module.weight, 0.3)  # random weights would grow from block to block
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        scored = model.train().training_logits(**inputs)
        sum(weight * F.cross_entropy(logits, label) for weight, logits in scored).backward()
        optimizer.step()
    dead = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert not dead
    return model.eval()


# Whole image networks, whose parts the models above have too.
LARGE = re.compile(r"(stpyramid|two_stream|lrcn)_(bn_inception|r50|vgg16)")
CASES = [
    pytest.param(name, marks=[pytest.mark.slow] if LARGE.fullmatch(name) else []) for name in MODELS
]


@pytest.mark.parametrize("name", CASES)
def test_every_model_keeps_the_contract(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = learned(MODELS[name]())
    inputs = example(model.spec)
    with torch.inference_mode():
        logits = model(**inputs)
        scale = float(logits.abs().max())
        assert logits.shape == (2, model.num_classes) == (2, CLASSES)
        assert torch.isfinite(logits).all()
        assert not torch.equal(logits[0], logits[1])

        # A clip alone scores as it does in a batch.
        alone = torch.cat([model(**part(inputs, row)) for row in range(2)])
        torch.testing.assert_close(alone, logits, rtol=0, atol=1e-5 * scale)

        # A head given the map from a store scores as live.
        if isinstance(model, ClipModel):
            features = model.forward_features(inputs["video"])
            assert features.shape[1] == model.backbone.out_channels
            spec, cells = model.spec, features.shape[2:]
            sides = (spec.num_frames, spec.height, spec.width)
            for side, stride, count in zip(sides, model.backbone.stride, cells, strict=True):
                assert abs(side / stride - count) <= 2  # convolutions may lose the border
            stored = model.forward_head(features.clone(), inputs.get("regions"))
            assert torch.equal(stored, logits)

    # What it looked at, per clip and frame.
    for explanation in model.explain(**inputs):
        frames = model.spec.num_frames
        assert len(explanation.node_boxes_xyxy) == explanation.attention.shape[1] == frames
        assert explanation.maps is None or len(explanation.maps) == frames
        assert torch.isfinite(explanation.attention).all()
    assert len(model.explain(**inputs)) in (0, 2)

    # Saved and loaded it is equal.
    save_weights(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert (loaded.name, loaded.options, loaded.spec) == (model.name, model.options, model.spec)
    with torch.inference_mode():
        assert torch.equal(loaded(**inputs), logits)


EXPLAINED = {
    "rstg on digits": (3, 14),
    "pooled rstg on resnet3d": (3, 14),
    "mean_lstm on resnet3d + rstg": (6, 14),  # three stages of each of two graphs
    "rstg on resnet3d + rstg": (9, 14),
    "strg on c2d": (0, 3),
    "pooled on resnet3d": None,
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_explanations_hold_the_stages_of_all_graphs(name: str) -> None:
    model, expected = MODELS[name]().eval(), EXPLAINED[name]
    found = model.explain(**example(model.spec))
    sizes = [(len(one.attention), len(one.names)) for one in found]
    assert sizes == ([] if expected is None else [expected] * 2)
