"""Backbones of digits: frame by frame, and evidence that lies where what it speaks for lies."""

from __future__ import annotations

import torch
from closeness import assert_close_to_scale
from torch import Tensor, nn

import vidgraph
from vidgraph.backbones.digits import DigitsBackbone, SimpleC2D
from vidgraph.backbones.resnet3d import ResNet3D, ResNet3DOptions
from vidgraph.data.digits import load_digits
from vidgraph.data.options import SyncMnistOptions
from vidgraph.data.syncmnist import SyncMnistStream
from vidgraph.models.baselines import EvidenceHead


def test_declared_channels_strides_and_maps() -> None:
    small = ResNet3DOptions(depths=(1, 1, 1, 1), width=4, stem="digit_maps")
    for backbone, shape, stride in (
        (DigitsBackbone(), (106, 3, 8, 8), (1, 8, 8)),
        (DigitsBackbone(num_evidence=3), (99, 3, 8, 8), (1, 8, 8)),
        (SimpleC2D(16), (16, 3, 6, 6), (1, 8, 8)),
        (DigitsBackbone(resnet3d=ResNet3D(small, {}, 106)), (128, 1, 2, 2), (2, 32, 32)),
    ):
        features = backbone.eval()(torch.rand(2, 1, 3, 64, 64))
        assert features.shape == (2, *shape)
        assert (backbone.out_channels, backbone.stride) == (shape[0], stride)


def test_frames_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    backbone, video = DigitsBackbone().eval(), torch.rand(2, 1, 3, 64, 64)
    whole = backbone(video)
    for t in range(3):
        assert_close_to_scale(backbone(video[:, :, t : t + 1])[:, :, 0], whole[:, :, t])


def test_evidence_is_a_rectified_linear_layer_at_each_cell() -> None:
    torch.manual_seed(0)
    backbone, video = DigitsBackbone(2).eval(), torch.randn(2, 1, 3, 10, 12)
    backbone.layers = nn.Conv2d(1, 96, 3, padding=1)
    features = backbone.layers(video.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 3))
    out = backbone(video)
    assert_close_to_scale(out[:, :96], features.transpose(1, 2))
    weight = backbone.evidence.weight[:, :, 0, 0]  # [E, C]
    for b, t, y, x in ((0, 0, 0, 0), (1, 2, 4, 5), (1, 0, 2, 3)):
        expected = (weight @ features[b, t, :, y, x] / 8).clamp(min=0)
        assert_close_to_scale(out[b, 96:, t, y, x], expected)
    assert (out[:, 96:] == 0).any()
    assert (out[:, 96:] > 0).any()


def test_what_pre_trains_it_is_the_mean_of_the_evidence() -> None:
    torch.manual_seed(0)
    backbone, video = DigitsBackbone().eval(), torch.rand(3, 1, 2, 64, 64)
    features, head = backbone(video), EvidenceHead(backbone)
    pooled: Tensor = features[:, :96].mean(dim=(2, 3, 4))
    assert_close_to_scale(head(features), pooled @ backbone.evidence.weight[:, :, 0, 0].T)
    assert list(head.state_dict()) == ["classifier.bias"]  # the rest is saved with the backbone


def test_shipped_evidence_lies_where_the_digit_lies() -> None:
    """Digits that it was not trained on: the centre of a digit's own map, squared, against the
    centre of the digit's box."""
    model = vidgraph.from_pretrained("digit_stem")
    stream = SyncMnistStream(load_digits("embedded", "test"), SyncMnistOptions(2), 64, seed=0)
    clips = stream.__getitems__(range(64))
    assert clips.regions is not None
    boxes = 64 * clips.regions.boxes_xyxy  # in pixels, [B, T, K, 4]
    with torch.no_grad():
        energy = model.forward_features(clips.video)[:, 96:].square()  # [B, E, T, 8, 8]
    places = 4.0 + 8.0 * torch.arange(8)  # middles of the cells, in pixels
    mass = energy.sum(dim=(3, 4)) + 1e-6
    # [B, E, T, 2]
    centres = torch.stack(
        [(energy.sum(3) @ places) / mass, (energy.sum(4) @ places) / mass], dim=-1
    )
    truth = (boxes[..., :2] + boxes[..., 2:]).movedim(2, 1) / 2  # [B, K, T, 2]
    # [B, K, E]: pixels, mean over the frames
    off = (truth[:, :, None] - centres[:, None]).norm(dim=-1).mean(dim=-1)
    assert off.amin(dim=2).median().item() < 4.0
