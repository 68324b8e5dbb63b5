"""Video encoders of transformers as backbones, on tiny random ones: where a token lies, which clips
an encoder takes, what its weights and its pixels are, and what is told where they are absent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from closeness import assert_close_to_scale
from huggingface_hub import constants
from torch import Tensor, nn

from vidgraph.backbones import video
from vidgraph.backbones.video import HFOptions, VideoTransformer, video_statistics
from vidgraph.errors import RecipeError, WeightsError
from vidgraph.models.build import create_model
from vidgraph.models.normalize import Normalize, NormalizeOptions
from vidgraph.weights import from_pretrained, save_weights

_WIDTH = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_CLIP = {**_WIDTH, "intermediate_size": 32, "num_frames": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "vjepa2": {
        **{"model_type": "vjepa2", "crop_size": 48, "mlp_ratio": 2, "pred_hidden_size": 24},
        **{"pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, **_WIDTH},
    },
    "videomae": {"model_type": "videomae", **_CLIP, "image_size": [48, 32]},
    "timesformer": {"model_type": "timesformer", **_CLIP, "image_size": 48},
    "vivit": {"model_type": "vivit", **_CLIP, "image_size": [48, 32]},
}
FAMILIES = list(CONFIGS)


def tiny(kind: str, **changes: Any) -> HFOptions:
    return HFOptions("tiny", weights=None, config={**CONFIGS[kind], **changes})


def encoder(kind: str, **changes: Any) -> tuple[VideoTransformer, Tensor]:
    """With random positions too, which start as zeros in some; and a clip of noise."""
    torch.manual_seed(0)
    backbone = VideoTransformer(tiny(kind, **changes), (48, 48)).eval()
    for name, parameter in backbone.named_parameters():
        if parameter.dim() == 3 and ("embed" in name or "cls_token" in name):
            nn.init.normal_(parameter, std=0.02)
    columns = 48 if kind in ("vjepa2", "timesformer") else 32
    return backbone, torch.randn(1, 3, 4, 48, columns)


# ---- where a token lies --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
@torch.no_grad()
def test_a_lit_patch_shows_in_its_own_cell(kind: str) -> None:
    """For every cell of the map: of all cells, its own changes most."""
    backbone, noise = encoder(kind)
    before = backbone(noise)
    assert before.shape == (1, 24, 4 // backbone.stride[0], 3, noise.shape[-1] // 16)
    for place in np.ndindex(*before.shape[2:]):
        lit = noise.clone()
        t, y, x = (slice(i * s, (i + 1) * s) for i, s in zip(place, backbone.stride, strict=True))
        lit[0, :, t, y, x] += 3
        change = (backbone(lit) - before).norm(dim=1)[0]
        assert np.unravel_index(int(change.argmax()), change.shape) == place
        assert change.flatten().topk(2).values.diff() < -0.2 * change.max()


# Where the token of frame t, row y and column x stands, of T frames and h x w cells.
ORDERS: dict[str, Callable[..., int]] = {
    "vjepa2": lambda t, y, x, T, h, w: (t * h + y) * w + x,
    "videomae": lambda t, y, x, T, h, w: (t * h + y) * w + x,
    "timesformer": lambda t, y, x, T, h, w: 1 + (y * w + x) * T + t,  # space first, time last
    "vivit": lambda t, y, x, T, h, w: 1 + (t * h + y) * w + x,  # after the token of the class
}


@pytest.mark.parametrize("kind", FAMILIES)
@torch.no_grad()
def test_tokens_are_laid_out_one_by_one(kind: str) -> None:
    backbone, clip = encoder(kind)
    maps, tokens = backbone(clip)[0], backbone.encoder(clip.transpose(1, 2)).last_hidden_state[0]
    T, h, w = maps.shape[1:]
    assert len(tokens) == T * h * w + (kind in ("timesformer", "vivit"))
    for t, y, x in np.ndindex(T, h, w):
        assert torch.equal(maps[:, t, y, x], tokens[ORDERS[kind](t, y, x, T, h, w)])


@pytest.mark.parametrize("size", [32, 64])
def test_vjepa2_rotates_by_the_place_in_the_clip(size: int) -> None:
    """Not in a clip of the size that its configuration names."""
    backbone = VideoTransformer(tiny("vjepa2"), (size, size))
    cells = [(t, y, x) for t in range(2) for y in range(size // 16) for x in range(size // 16)]
    tokens = torch.zeros(1, len(cells), 24)
    attentions = [m for m in backbone.modules() if hasattr(m, "get_position_ids")]
    assert len(attentions) == 2
    for attention in attentions:
        places = torch.stack(attention.get_position_ids(tokens), dim=1)
        assert places.tolist() == [list(cell) for cell in cells]


# ---- which clips it takes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("vjepa2", {"num_frames": 5}, "a multiple of 2 frames of 48 x 48 in RGB, not 5 of 48 x 48"),
        ("vjepa2", {"width": 32}, "of 48 x 48 in RGB, not 8 of 48 x 32"),
        ("videomae", {"num_frames": 8}, "4 frames of 48 x 32 in RGB, not 8 of 48 x 32"),
        ("videomae", {"num_frames": 2}, "not 2 of"),
        ("videomae", {"height": 64, "width": 64}, "not 4 of 64 x 64"),
        ("timesformer", {"num_frames": 8}, "4 frames of 48 x 48 in RGB, not 8 of"),
        ("timesformer", {"height": 64, "width": 64}, "not 4 of 64 x 64"),
        ("vivit", {"num_frames": 8}, "not 8 of"),
        ("vivit", {"height": 64, "width": 64}, "not 4 of 64 x 64"),
        ("vivit", {"channels": 1}, "with 1 channels"),
    ],
)
def test_other_clips_are_one_line(kind: str, spec: dict[str, int], words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        create_model("pooled", 3, backbone=tiny(kind), input=spec)
    assert "input.num_frames, input.height and input.width" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_clips_are_the_encoders_where_nothing_is_said() -> None:
    sizes = {}
    for kind in FAMILIES:
        spec = create_model("pooled", 3, backbone=tiny(kind)).spec
        sizes[kind] = (spec.num_frames, spec.height, spec.width)
    assert sizes == {
        "vjepa2": (8, 48, 48),  # any even number: that of the head's own clip
        "videomae": (4, 48, 32),
        "timesformer": (4, 48, 48),
        "vivit": (4, 48, 32),
    }
    larger = create_model(
        "pooled", 3, backbone=tiny("vjepa2"), input={"height": 64, "width": 64, "num_frames": 2}
    )
    assert larger.backbone(torch.randn(1, 3, 2, 64, 64)).shape == (1, 24, 1, 4, 4)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "videomaee"}, "no video encoder but 'videomaee'; did you mean 'videomae'"),
        ({}, "no video encoder but 'None'"),
        ({**CONFIGS["vivit"], "hidden_size": "wide"}, "tiny: config.json is not usable"),
        ({**CONFIGS["timesformer"], "attention_type": "space_only"}, "sees frames one by one"),
    ],
)
def test_models_that_are_no_video_encoders(config: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        create_model("pooled", 3, backbone=HFOptions("tiny", weights=None, config=config))
    assert "\n" not in str(caught.value)


# ---- weights, license and pixels -----------------------------------------------------------------

_TRAINED = {  # with a classifier, as most published weights have one
    "vjepa2": transformers.VJEPA2ForVideoClassification,
    "videomae": transformers.VideoMAEForVideoClassification,
    "timesformer": transformers.TimesformerForVideoClassification,
    "vivit": transformers.VivitForVideoClassification,
}


def published(kind: str, folder: Path) -> Any:
    """A model of another library in a folder, as the hub has it."""
    torch.manual_seed(1)
    theirs: Any = _TRAINED[kind]
    model = theirs(theirs.config_class(**CONFIGS[kind], num_labels=5)).eval()
    model.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    return model


@pytest.mark.parametrize("kind", FAMILIES)
@torch.no_grad()
def test_weights_are_those_of_the_folder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was trained from them is built again without it."""
    theirs = published(kind, tmp_path / "hub")
    model: Any = create_model("pooled", 3, backbone=f"hf:{tmp_path / 'hub'}").eval()
    assert model.options.backbone.license == "mit"
    assert "id2label" not in model.options.backbone.config
    spec = model.spec
    clip = torch.randn(2, 3, spec.num_frames, spec.height, spec.width)
    base = getattr(theirs, theirs.base_model_prefix)
    extra = {"skip_predictor": True} if kind == "vjepa2" else {}
    tokens = base(clip.transpose(1, 2), **extra).last_hidden_state
    maps = model.backbone(clip)
    assert_close_to_scale(maps.mean((2, 3, 4)), tokens[:, -maps[0, 0].numel() :].mean(1))

    save_weights(model, tmp_path / "run")
    for file in (tmp_path / "hub").iterdir():
        file.unlink()
    (tmp_path / "hub").rmdir()
    monkeypatch.setattr(video, "hub_file", None)
    again = from_pretrained(tmp_path / "run")
    assert again.options == model.options
    assert torch.equal(again(clip.sigmoid()), model(clip.sigmoid()))


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    published("videomae", tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    content, words = weights.read_bytes(), json.loads(config.read_text())
    cases: list[tuple[dict[str, Any], bytes, str]] = [
        ({"num_hidden_layers": 3}, content, r"has no 'encoder.layer.2.*\(15 such tensors\)"),
        ({"intermediate_size": 40}, content, "of the shape that its config.json asks for"),
        ({}, content[:5000], "model.safetensors: cannot be read"),
    ]
    for change, tensors, message in cases:
        config.write_text(json.dumps({**words, **change}))
        weights.write_bytes(tensors)
        with pytest.raises(WeightsError, match=message) as caught:
            create_model("pooled", 3, backbone=f"hf:{tmp_path}")
        assert "\n" not in str(caught.value)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    published("videomae", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"has no model.safetensors; download config.json, "):
        create_model("pooled", 3, backbone=f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("kind", "processor"),
    [
        ("vivit", "VivitImageProcessor"),
        ("vivit", "VivitVideoProcessor"),
        ("videomae", "VideoMAEImageProcessor"),
        ("timesformer", "TimesformerVideoProcessor"),
        ("vjepa2", "VJEPA2VideoProcessor"),
    ],
)
def test_pixels_are_those_of_the_models_own_processor(
    kind: str, processor: str, tmp_path: Path
) -> None:
    theirs: Any = getattr(transformers, processor)()
    theirs.save_pretrained(tmp_path)
    clip = np.random.RandomState(0).randint(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    frames = list(clip.transpose(0, 2, 3, 1)) if "Image" in processor else clip
    plain = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    (expected,) = theirs(frames, **plain).values()
    how = HFOptions(str(tmp_path), config=CONFIGS[kind])
    normalize = Normalize(NormalizeOptions(*video_statistics(how)))
    ours = normalize(torch.from_numpy(clip).transpose(0, 1)[None])
    torch.testing.assert_close(ours.transpose(1, 2), expected, rtol=1e-5, atol=1e-5)


def test_pixels_of_the_family_where_no_file_says_them(tmp_path: Path) -> None:
    for kind, value in {"vivit": 0.5, "timesformer": 0.45}.items():
        mean, _ = video_statistics(HFOptions(str(tmp_path), config=CONFIGS[kind]))
        assert mean == (value,) * 3
    model = create_model("pooled", 3, backbone=tiny("vivit"), normalize="kinetics")
    assert model.options.normalize == "kinetics"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files are those of `MCG-NJU/videomae-tiny` on the hub."""

    def found(hub_id: str, name: str) -> Path | None:
        assert hub_id == "MCG-NJU/videomae-tiny"
        return tmp_path / "hub" / name if (tmp_path / "hub" / name).exists() else None

    monkeypatch.setattr(video, "hub_file", found)
    published("videomae", tmp_path / "hub")
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: mine\n---\n", "mine"),
        ("---\ntags: [video]\n---\n", "cc-by-nc-4.0"),  # by our table
        ("---\n: [broken\n---\n", "cc-by-nc-4.0"),
        (None, "cc-by-nc-4.0"),
    ],
)
def test_the_license_is_told_at_download_and_kept(
    card: str | None, license: str, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hub / "README.md").unlink()
    if card is not None:
        (hub / "README.md").write_text(card)
    model: Any = create_model("pooled", 3, backbone="hf:MCG-NJU/videomae-tiny")
    assert model.options.backbone.license == license
    words = f"weights of MCG-NJU/videomae-tiny, license {license}\n"
    assert words in capsys.readouterr().err


def test_a_license_that_nobody_tells(tmp_path: Path) -> None:
    published("videomae", tmp_path)
    (tmp_path / "README.md").unlink()
    assert str(HFOptions(str(tmp_path)).license).startswith("not known")


def test_without_a_network_one_line_says_what_to_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with pytest.raises(RecipeError) as caught:
        create_model("pooled", 3, backbone="hf:facebook/vjepa2-vitl-fpc64-256")
    assert str(caught.value) == (
        "pooled: facebook/vjepa2-vitl-fpc64-256: no such folder here, and the hub cannot be "
        "reached; check the path or the network; or download config.json, model.safetensors and, "
        "where the model has it, preprocessor_config.json from its page on the Hugging Face hub "
        "into a folder, and give hf:FOLDER"
    )


def test_without_transformers_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RecipeError, match=r"needs transformers; pip install 'vidgraph\[video\]'"):
        create_model("pooled", 3, backbone=tiny("vivit"))
