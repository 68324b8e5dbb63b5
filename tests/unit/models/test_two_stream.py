"""Two streams, segments and LRCN: consensus and weights against plain loops, and what is trained on
what. Laws of every model are in test_contract.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closeness import assert_close_to_scale
from drawn import noise_clips
from torch import Tensor, nn
from torch.nn import functional as F

from vidgraph.errors import RecipeError
from vidgraph.models.build import create_model
from vidgraph.models.matching import load_matching
from vidgraph.models.two_stream import SegmentsHead, Stream, TwoStream

SIDE, CLASSES = 32, 5
FRAMES_ONLY: dict[str, Any] = {"flow": None}
FLOW_ONLY: dict[str, Any] = {"frames": None}


def small(name: str = "two_stream_small", num_frames: int = 1, **options: Any) -> TwoStream:
    """Small networks without dropout, whose classifiers are not small."""
    torch.manual_seed(0)
    spec = {"height": SIDE, "width": SIDE, "flow_length": 2, "num_frames": num_frames}
    model = create_model(name, CLASSES, input=spec, **options)
    assert isinstance(model, TwoStream)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.eval()


def test_segments_equal_a_plain_loop_over_images() -> None:
    """Every image by itself, the mean of its map, the classifier; the mean over images of what
    comes out; 1 to 1.5."""
    model = small(num_frames=3)
    inputs = noise_clips(model.spec)
    frames, flow = model.frames, model.flow
    assert frames is not None
    assert flow is not None
    assert isinstance(frames.head, SegmentsHead)
    assert isinstance(flow.head, SegmentsHead)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    expected = []
    with torch.no_grad():
        for b in range(2):
            scores: dict[str, list[Tensor]] = {"frames": [], "flow": []}
            for t in range(3):
                image = (inputs["video"][b, :, t].float() / 255 - mean) / std
                pooled = frames.backbone.network(image[None])[0].mean((1, 2))
                scores["frames"].append(frames.head.classifier(pooled))
                stack = (inputs["flow"][b, t, 0].float() - 127.5) / (255 * 0.226)
                pooled = flow.backbone.network(stack[None])[0].mean((1, 2))
                scores["flow"].append(flow.head.classifier(pooled))
            means = {name: torch.stack(found).mean(0) for name, found in scores.items()}
            expected.append((means["frames"] + 1.5 * means["flow"]) / 2.5)
        assert_close_to_scale(model(**inputs), torch.stack(expected))


def test_lrcn_equals_a_plain_loop_over_steps() -> None:
    model = small("lrcn_small", 4, **FLOW_ONLY)
    inputs = noise_clips(model.spec)
    stream: Any = model.flow
    with torch.no_grad():
        hidden = cell = torch.zeros(2, 128)
        total = torch.zeros(2, CLASSES)
        for t in range(4):
            image = (inputs["flow"][:, t, 0].float() - 127.5) / (255 * 0.226)
            x, lstm = stream.backbone.network(image).mean((2, 3)), stream.head.lstm
            gates = F.linear(x, lstm.weight_ih_l0, lstm.bias_ih_l0)
            gates = gates + F.linear(hidden, lstm.weight_hh_l0, lstm.bias_hh_l0)
            take, keep, new, show = gates.chunk(4, dim=1)
            cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
            hidden = show.sigmoid() * cell.tanh()
            total += stream.head.classifier(hidden)
        assert_close_to_scale(model(**inputs), total / 4)


def test_lrcn_drops_inputs_and_outputs_of_its_lstm() -> None:
    model = create_model("lrcn_small", CLASSES, flow=None)
    assert isinstance(model, TwoStream)
    assert model.frames is not None
    head, maps = model.frames.head, torch.ones(1, 256, 3, 2, 2)
    assert head is not None
    kept: list[Tensor] = []
    head.lstm.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    head.classifier.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    head(maps)
    for part in kept:
        assert 0.35 < float((part == 0).float().mean()) < 0.65


def test_each_stream_is_trained_as_if_the_other_were_not_there() -> None:
    """Gradients of both at once against those of each alone; a stream that is frozen is not even
    computed."""
    model, labels = small(), torch.tensor([0, 1])
    inputs = noise_clips(model.spec)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        losses = [
            weight * F.cross_entropy(logits, labels)
            for weight, logits in model.training_logits(**inputs)
        ]
        torch.stack(losses).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    both = gradients()
    assert len(both) == len(list(model.parameters()))
    for stream, other in (("frames", "flow"), ("flow", "frames")):
        model.get_submodule(other).requires_grad_(False)
        alone = gradients()
        assert all(name.startswith(stream) for name in alone)
        for name, value in alone.items():
            torch.testing.assert_close(value, both[name], rtol=1e-4, atol=1e-6)
        model.get_submodule(other).requires_grad_(True)


def test_a_pyramid_starts_from_the_networks_of_two_streams() -> None:
    """Names agree, so that the weights of one fit the other; only classifiers and what fuses have
    no counterpart."""
    streams, pyramid = create_model("two_stream_small", CLASSES), create_model("stpyramid_small", 3)
    report = load_matching(pyramid, streams.state_dict())
    shared = {name for name in pyramid.state_dict() if name.startswith(("frames.", "flow."))}
    assert set(report.loaded) == shared
    assert len(shared) > 80
    assert all(".head.classifier." in name for name in report.unexpected)


def test_one_stream_is_not_weighted() -> None:
    model = small(flow_weight=7.0, **FLOW_ONLY)
    inputs = noise_clips(model.spec)
    assert model.flow is not None
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs), model.flow(inputs["flow"]))
    assert (model.spec.channels, model.spec.flow_length) == (0, 2)


def test_classifiers_start_small() -> None:
    torch.manual_seed(0)
    model: Any = create_model("two_stream_bn_inception", 101, flow=None)
    classifier = model.frames.head.classifier
    assert float(classifier.weight.detach().std()) == pytest.approx(0.001, rel=0.02)
    assert not classifier.bias.any()


def test_stacks_lie_frame_after_frame() -> None:
    """[B, D, T * S, h, w]: the stacks of the first frame, then those of the second."""

    class Mean(nn.Module):
        out_channels, stride = 1, (1, 5, 5)

        def forward(self, clip: Tensor) -> Tensor:
            return clip.mean((1, 3, 4))[:, None, :, None, None]

    stream = Stream(nn.Identity(), Mean())
    flow = torch.arange(12.0).reshape(2, 3, 2, 1, 1, 1).expand(2, 3, 2, 4, 5, 5)
    assert stream.forward_features(flow).flatten().tolist() == list(range(12))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": None, "flow": None}, "needs frames, flow, or both"),
        ({"flow_weight": 0.0}, "flow_weight"),
        ({"flow": {"head": {"dropout": 1.0}}}, "flow.*dropout"),
        ({"flow": {"heads": {}}}, "unknown key flow.heads; did you mean 'head'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        small(**options)
