"""Two streams, segments and LRCN: consensus and weights against plain loops, what is trained on
what, batches and gradients.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.errors import DataError, RecipeError
from vidgraph.models.build import create_model
from vidgraph.models.frame_stream import FrameStream
from vidgraph.models.pooled import SegmentStream, TwoStream

SIDE, CLASSES = 32, 5
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "two streams": ("two_stream_small", {}),
    "segments": ("two_stream_small", {"num_frames": 3}),
    "spatial": ("two_stream_small", {"streams": "spatial", "num_frames": 2}),
    "temporal": ("two_stream_small", {"streams": "temporal"}),
    "lrcn": ("lrcn_small", {"num_frames": 4}),
    "lrcn of flow": ("lrcn_small", {"num_frames": 4, "streams": "temporal"}),
}


def small(kind: str, **options: Any) -> TwoStream:
    torch.manual_seed(0)
    name, own = KINDS[kind]
    model = create_model(
        name,
        CLASSES,
        **{"size": SIDE, "flow_length": 2, "dropout": 0.0, "flow_dropout": 0.0, **own, **options},
    )
    assert isinstance(model, TwoStream)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    return model.eval()


def clips(model: nn.Module, batch: int = 3) -> dict[str, Tensor]:
    generator, spec = torch.Generator().manual_seed(1), model.input_spec
    found: dict[str, Tensor] = {}
    if spec.channels:
        found["video"] = torch.randint(
            0, 256, (batch, 3, spec.num_frames, SIDE, SIDE), dtype=torch.uint8, generator=generator
        )
    if spec.flow_length:
        shape = (batch, spec.num_frames, spec.num_stacks, 2 * spec.flow_length, SIDE, SIDE)
        found["flow"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return found


def part(inputs: dict[str, Tensor], *rows: int) -> dict[str, Tensor]:
    return {name: value[list(rows)] for name, value in inputs.items()}


def test_segments_equal_a_plain_loop_over_images() -> None:
    """Every image by itself, the mean of its map, the classifier; the mean over images of what
    comes out; 1 to 1.5.
    """
    model = small("segments")
    inputs = clips(model, batch=2)
    assert isinstance(model.spatial, SegmentStream)
    assert isinstance(model.temporal, SegmentStream)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = []
    with torch.no_grad():
        for b in range(2):
            frames, snippets = [], []
            for t in range(3):
                frame = (inputs["video"][b, :, t].float() / 255 - mean[:, None, None]) / std[
                    :, None, None
                ]
                frames.append(
                    model.spatial.classifier(model.spatial.backbone(frame[None])[0].mean((1, 2)))
                )
                snippet = (inputs["flow"][b, t, 0].float() - 127.5) / (255 * 0.226)
                snippets.append(
                    model.temporal.classifier(
                        model.temporal.backbone(snippet[None])[0].mean((1, 2))
                    )
                )
            expected.append((sum(frames) / 3 + 1.5 * sum(snippets) / 3) / 2.5)
        assert_close_to_scale(model(**inputs), torch.stack(expected), rel=1e-4)


def test_lrcn_equals_a_plain_loop_over_steps() -> None:
    model = small("lrcn of flow")
    inputs = clips(model, batch=2)
    stream: Any = model.temporal
    with torch.no_grad():
        hidden = cell = torch.zeros(2, 128)
        total = torch.zeros(2, CLASSES)
        for t in range(4):
            image = (inputs["flow"][:, t, 0].float() - 127.5) / (255 * 0.226)
            x = stream.backbone(image).mean((2, 3))
            gates = F.linear(x, stream.lstm.weight_ih_l0, stream.lstm.bias_ih_l0)
            gates = gates + F.linear(hidden, stream.lstm.weight_hh_l0, stream.lstm.bias_hh_l0)
            take, keep, new, show = gates.chunk(4, dim=1)
            cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
            hidden = show.sigmoid() * cell.tanh()
            total += stream.classifier(hidden)
        assert_close_to_scale(model(**inputs), total / 4, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_scores_the_same_alone_and_in_a_batch(kind: str) -> None:
    model = small(kind)
    inputs = clips(model)
    with torch.no_grad():
        together = model(**inputs)
        assert_close_to_scale(together[1:2], model(**part(inputs, 1)), rel=1e-4)
    assert together.shape == (3, CLASSES)
    assert not torch.allclose(together[0], together[1], rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_receives_a_gradient(kind: str) -> None:
    model = small(kind).train()
    scores = model.training_logits(**clips(model))
    assert [weight for weight, _ in scores] == [1.0] * sum(
        stream is not None for stream in (model.spatial, model.temporal)
    )
    sum(
        weight * F.cross_entropy(logits, torch.tensor([0, 1, 2])) for weight, logits in scores
    ).backward()
    silent = [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not p.grad.any() or not p.grad.isfinite().all()
    ]
    assert silent == []


def test_order_counts_in_lrcn_and_not_between_segments() -> None:
    for kind, same in (("segments", True), ("lrcn", False)):
        model = small(kind)
        inputs = clips(model)
        turned = {"video": inputs["video"].flip(2), "flow": inputs["flow"].flip(1)}
        with torch.no_grad():
            assert torch.allclose(model(**inputs), model(**turned), rtol=1e-4, atol=1e-3) is same, (
                kind
            )


def test_each_stream_is_trained_as_if_the_other_were_not_there() -> None:
    """Gradients of both at once against those of each alone; a stream that is frozen is not even
    computed.
    """
    model, inputs, labels = small("two streams"), None, torch.tensor([0, 1, 2])
    inputs = clips(model)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        sum(
            weight * F.cross_entropy(logits, labels)
            for weight, logits in model.training_logits(**inputs)
        ).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    both = gradients()
    for stream, other in (("spatial", "temporal"), ("temporal", "spatial")):
        frozen: Any = getattr(model, other)
        frozen.requires_grad_(False)
        alone = gradients()
        assert all(name.startswith(stream) for name in alone)
        for name, value in alone.items():
            assert_close_to_scale(value, both[name], rel=1e-4)
        frozen.requires_grad_(True)


def test_a_pyramid_starts_from_the_networks_of_two_streams() -> None:
    """Names agree, so that the weights of one fit the other; only classifiers and what fuses have
    no counterpart.
    """
    from vidgraph.weights import load_matching

    streams = create_model("two_stream_small", CLASSES, size=SIDE)
    pyramid = create_model("stpyramid_small", CLASSES, size=SIDE, width=40)
    report = load_matching(pyramid, streams.state_dict())
    assert {name for name in pyramid.state_dict() if ".backbone." in name} == set(report.loaded)
    assert set(report.unexpected) == {
        f"{stream}.classifier.{tensor}"
        for stream in ("spatial", "temporal")
        for tensor in ("weight", "bias")
    }


def test_one_stream_is_not_weighted() -> None:
    model = small("temporal", flow_weight=7.0)
    inputs = clips(model)
    assert model.temporal is not None
    with torch.no_grad():
        assert_close_to_scale(model(**inputs), model.temporal(inputs["flow"]))


def test_classifiers_start_small() -> None:
    torch.manual_seed(0)
    model = create_model("two_stream_bn_inception", 101, streams="spatial")
    assert float(model.spatial.classifier.weight.detach().std()) == pytest.approx(0.001, rel=0.02)
    assert not model.spatial.classifier.bias.any()


def test_streams_name_what_they_lack() -> None:
    model = small("two streams")
    with pytest.raises(DataError, match="optical flow"):
        model(video=clips(model)["video"])
    with pytest.raises(RecipeError, match="streams"):
        small("two streams", streams="neither")
    with pytest.raises(RecipeError, match="flow_weight"):
        small("two streams", flow_weight=0.0)
    with pytest.raises(RecipeError, match="flow_dropout"):
        small("two streams", flow_dropout=1.0)


def test_maps_lie_frame_after_frame() -> None:
    """[B, T * S, ...]: the snippets of the first frame, then those of the second."""

    class Mean(nn.Module):
        out_channels = 1

        def forward(self, images: Tensor) -> Tensor:
            return images.mean((1, 2, 3))[:, None, None, None]

    stream = FrameStream(nn.Identity(), Mean())
    flow = torch.arange(12.0).reshape(2, 3, 2, 1, 1, 1).expand(2, 3, 2, 4, 5, 5)
    assert stream(flow).flatten().tolist() == list(range(12))
    video = torch.arange(6.0).reshape(2, 1, 3, 1, 1).expand(2, 1, 3, 5, 5)
    assert stream(video).flatten().tolist() == list(range(6))
