"""Stems of digits: frame by frame, and evidence that has the place of what it speaks for."""

from __future__ import annotations

import torch
from closeness import assert_close_to_scale
from torch import nn

import vidgraph
from vidgraph.backbones.digits import EvidenceStem, FrameWise, simple_c2d, strided_stem
from vidgraph.data.digits import load_digits
from vidgraph.data.syncmnist import SyncMnistStream


def test_declared_channels_and_map_sizes() -> None:
    for stem, shape in (
        (strided_stem(), (106, 8, 8)),
        (strided_stem(num_evidence=3), (99, 8, 8)),
        (simple_c2d(16), (16, 6, 6)),
    ):
        features = stem.eval()(torch.rand(2, 1, 3, 64, 64))
        assert features.shape == (2, shape[0], 3, *shape[1:])
        assert (stem.out_channels, *stem.map_size) == shape


def test_frames_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    stem, video = strided_stem().eval(), torch.rand(2, 1, 3, 64, 64)
    whole = stem(video)
    for t in range(3):
        assert_close_to_scale(stem(video[:, :, t : t + 1])[:, :, 0], whole[:, :, t])


def test_evidence_is_a_rectified_linear_layer_at_each_cell() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, padding=1)
    stem, video = EvidenceStem(layers, 4, 2, (5, 6)), torch.randn(2, 1, 3, 5, 6)
    features = FrameWise(layers, 4, (5, 6))(video)
    out = stem(video)
    assert_close_to_scale(out[:, :4], features)
    weight = stem.evidence.weight[:, :, 0, 0]  # [E, C]
    for b, t, y, x in ((0, 0, 0, 0), (1, 2, 4, 5), (1, 0, 2, 3)):
        assert_close_to_scale(
            out[b, 4:, t, y, x], (weight @ features[b, :, t, y, x] / 8).clamp(min=0)
        )
    assert (out[:, 4:] == 0).any()
    assert (out[:, 4:] > 0).any()


def test_what_pre_trains_it_is_the_mean_of_the_evidence() -> None:
    torch.manual_seed(0)
    stem, video = strided_stem().eval(), torch.rand(3, 1, 2, 64, 64)
    pooled = stem(video)[:, :96].mean(dim=(2, 3, 4))
    assert_close_to_scale(stem.logits(video), pooled @ stem.evidence.weight[:, :, 0, 0].T)


def test_shipped_evidence_lies_where_the_digit_lies() -> None:
    """Digits that it was not trained on: the centre of a digit's own map, squared, against the
    centre of the digit's box.
    """
    stem = vidgraph.from_pretrained("digit_stem").eval()
    clips = SyncMnistStream(load_digits("embedded", "test"), 2, 64, seed=0).__getitems__(range(64))
    assert clips.regions is not None
    boxes = clips.regions.boxes_xyxy  # [B, T, K, 4]
    with torch.no_grad():
        energy = stem.stem(stem.pixels(clips.video))[:, 96:].square()  # [B, E, T, 8, 8]
    places = 4.0 + 8.0 * torch.arange(8)  # middles of the cells, in pixels
    mass = energy.sum(dim=(3, 4)) + 1e-6
    centres = torch.stack(
        [(energy.sum(3) @ places) / mass, (energy.sum(4) @ places) / mass], dim=-1
    )  # [B, E, T, 2]
    truth = (boxes[..., :2] + boxes[..., 2:]).movedim(2, 1) / 2  # [B, K, T, 2]
    off = (
        (truth[:, :, None] - centres[:, None]).norm(dim=-1).mean(dim=-1)
    )  # [B, K, E]: pixels, mean over the frames
    assert off.amin(dim=2).median().item() < 4.0
