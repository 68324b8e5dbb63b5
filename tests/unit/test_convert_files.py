"""`vidgraph convert` on files: torch's two formats, safetensors and Python 2's pickles in, weights
and their report out; files that are refused.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from malicious import Malicious
from torch import Tensor, nn

import vidgraph
from vidgraph.cli import main
from vidgraph.convert import convert_weights
from vidgraph.errors import WeightsError
from vidgraph.models.base import VideoModel
from vidgraph.models.matching import load_matching
from vidgraph.util import read_checkpoint


@pytest.fixture(scope="module")
def network() -> VideoModel:
    """An I3D of 5 classes whose every tensor is drawn, so that none can stand in for another."""
    model = vidgraph.create_model("i3d_small", 5, backbone={"layer4_stride": 2})
    draw = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "normalize" not in name:
            least = 0.5 if name.endswith("running_var") or tensor.dim() == 1 else 0.0
            tensor.copy_(torch.rand(tensor.shape, generator=draw) * 0.2 + least)
    return model


def renamed(model: nn.Module, pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Our tensors under foreign names; rules one after another."""
    found = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("normalize."):
            continue
        for pattern, theirs in [(r"^backbone\.", ""), *pairs]:
            name = re.sub(pattern, theirs, name)
        found[name] = tensor
    return found


def pytorchvideo(model: nn.Module) -> dict[str, Tensor]:
    pairs = [
        (rf"^layer{layer}\.", f"blocks.{block}.res_blocks.")
        for layer, block in ((1, 1), (2, 3), (3, 4), (4, 5))
    ]
    pairs += [(r"^conv1\.", "blocks.0.conv."), (r"^bn1\.", "blocks.0.norm.")]
    pairs += [(rf"\.conv{i}\.", f".branch2.conv_{x}.") for i, x in enumerate("abc", 1)]
    pairs += [(rf"\.bn{i}\.", f".branch2.norm_{x}.") for i, x in enumerate("abc", 1)]
    pairs += [(r"\.downsample\.0\.", ".branch1_conv."), (r"\.downsample\.1\.", ".branch1_norm.")]
    return renamed(model, [*pairs, (r"^head\.classifier", "blocks.6.proj")])


def something_else(model: nn.Module) -> dict[str, Tensor]:
    pairs = [(r"(\d)\.conv(\d)\.", r"\1.conv\2.0."), (r"(\d)\.bn(\d)\.", r"\1.conv\2.1.")]
    pairs += [(r"\.downsample\.", ".shortcut."), (r"^head\.classifier", "fc")]
    return renamed(model, [*pairs, ("^", "module.")])


def caffe2(model: nn.Module) -> dict[str, Any]:
    pairs = [(rf"^layer{i}\.(\d+)\.", rf"res{i + 1}_\1_") for i in range(1, 5)]
    pairs += [("^bn1", "res_conv1_bn"), (r"downsample\.0", "branch1")]
    pairs += [(r"downsample\.1", "branch1_bn"), (r"^head\.classifier", "pred")]
    pairs += [(rf"_conv{i}\.", f"_branch2{x}.") for i, x in enumerate("abc", 1)]
    pairs += [(rf"_bn{i}\.", f"_branch2{x}_bn.") for i, x in enumerate("abc", 1)]
    pairs += [(r"_bn\.weight", "_bn_s"), (r"\.weight", "_w"), (r"\.bias", "_b")]
    pairs += [(r"\.running_mean", "_rm"), (r"\.running_var", "_riv")]
    blobs = renamed(model, pairs)
    return {name: value.numpy() for name, value in blobs.items() if "num_batches" not in name}


class Python2Pickler(pickle._Pickler):
    """Writes texts and bytes as Python 2's one kind of string, and numpy's functions where numpy 1
    had them."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value: str | bytes) -> None:
        content = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(content: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")


def save_old(content: Any, file: Path) -> None:
    """As torch did before 2020."""
    torch.save(content, file, _use_new_zipfile_serialization=False)


def same_weights(folder: Path, network: VideoModel) -> Any:
    found, expected = vidgraph.from_pretrained(folder), network.state_dict()
    assert found.state_dict().keys() == expected.keys()
    for name, value in found.state_dict().items():
        assert torch.equal(value, expected[name]) or name.startswith("normalize."), name
    return found


@pytest.mark.parametrize("save", [torch.save, save_old])
def test_convert_a_torch_checkpoint(
    save: Any, network: VideoModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all that a training code stores around the weights."""
    around = {"epoch": 196, "cfg": "TRAIN:\n", "optimizer_state": {"param_groups": [{"lr": 0.1}]}}
    file, out = tmp_path / "I3D.pyth", tmp_path / "out"
    save({"model_state": pytorchvideo(network), **around}, file)
    assert main(["convert", str(file), "--architecture", "i3d_small", "--out", str(out)]) == 0
    found = same_weights(out, network)
    clip = torch.rand(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found(clip), network.eval()(clip))
    assert (found.spec.num_frames, found.spec.stride_frames) == (8, 8)
    total = len(pytorchvideo(network))
    printed = capsys.readouterr().out
    assert f"PyTorchVideo: {total} tensors converted into i3d_small" in printed
    assert "left out" not in printed
    report = json.loads((out / "conversion.json").read_text())
    assert (report["file"], report["codebase"], report["left_out"]) == (
        *("I3D.pyth", "PyTorchVideo"),
        {},
    )
    assert report["names"]["blocks.3.res_blocks.1.branch2.norm_b.running_var"] == (
        "backbone.layer2.1.bn2.running_var"
    )


def test_pixel_statistics_and_strides_go_with_the_weights(
    network: VideoModel, tmp_path: Path
) -> None:
    """Something-Else normalises as ImageNet does, keeps 14 x 14 cells in layer4 and does not pad
    its first pool; but what is asked for stands."""
    file, out = tmp_path / "best.safetensors", tmp_path / "out"
    safetensors.torch.save_file(something_else(network), file)
    report = convert_weights(file, "i3d_small", None, {}, out)
    assert report.options == {
        "normalize": "imagenet",
        "backbone": {"stem": "valid", "layer4_stride": 1},
    }
    found = same_weights(out, network)
    assert found.normalize.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert found.backbone.stride == (2, 16, 16)
    asked = {"normalize": "kinetics", "backbone": {"layer4_stride": 2}}
    convert_weights(file, "i3d_small", None, asked, out)
    found = same_weights(out, network)
    assert found.normalize.mean.flatten().tolist() == pytest.approx([0.45] * 3)
    assert found.backbone.stride == (2, 32, 32)


@pytest.mark.parametrize(
    "write",
    [
        python2_pickle,
        lambda content: pickle.dumps(content, 0),
        lambda content: pickle.dumps(content, 4),
    ],
)
def test_convert_a_pickle_of_blobs(
    write: Callable[[Any], bytes], network: VideoModel, tmp_path: Path
) -> None:
    blobs = caffe2(network)
    state = {"conv1_w_momentum": blobs["conv1_w"], "lr": 0.01, "model_iter": 400_000}
    (tmp_path / "i3d.pkl").write_bytes(write({"blobs": {**blobs, **state}}))
    report = convert_weights(tmp_path / "i3d.pkl", "i3d_small", None, {}, tmp_path / "out")
    found = same_weights(tmp_path / "out", network)
    assert (report.left_out.keys(), report.names.keys()) == (state.keys(), blobs.keys())
    assert found.normalize.std.flatten().tolist() == pytest.approx([57.375 / 255] * 3)


def test_head_for_other_classes(
    network: VideoModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out, weights = tmp_path / "w.pth", tmp_path / "out", pytorchvideo(network)
    words = ["convert", str(file), "--architecture", "i3d_small", "--out", str(out)]
    torch.save(weights, file)
    assert main([*words, "--num-classes", "7"]) == 0
    printed = capsys.readouterr().out
    assert (
        "left out  blocks.6.proj.weight, blocks.6.proj.bias: classifier of 5 classes, and the "
        "model has 7" in printed
    )
    assert "anew      head.classifier.weight, head.classifier.bias" in printed
    found = vidgraph.from_pretrained(out)
    assert found.num_classes == 7
    torch.save({name: value for name, value in weights.items() if "proj" not in name}, file)
    assert "has no classifier of clips; say how many classes" in error(capsys, *words)
    assert main([*words, "--num-classes", "7"]) == 0


def test_convert_an_image_resnet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A still clip through the inflated network is the image through torchvision's; the pixels are
    ImageNet's."""
    torch.manual_seed(0)
    images = torchvision.models.resnet50(weights=None).eval()
    file, out = tmp_path / "resnet50.pth", tmp_path / "out"
    torch.save(images.state_dict(), file)
    words = ["convert", str(file), "--out", str(out), "--model.backbone.inflation", "none"]
    words += ["--model.backbone.layer4_stride", "2"]
    assert "--num-classes N" in error(capsys, *words)
    assert main([*words, "--num-classes", "5"]) == 0
    printed = capsys.readouterr().out
    assert "torchvision: 318 tensors" in printed
    assert "left out  fc.weight, fc.bias: classifier of images" in printed
    model: Any = vidgraph.from_pretrained(out)
    assert (model.options.normalize, model.num_classes) == ("imagenet", 5)
    clip = torch.rand(1, 3, 1, 64, 64).expand(-1, -1, 4, -1, -1)
    images.fc = nn.Identity()
    with torch.no_grad():
        features = model.forward_features(clip).mean(dim=(2, 3, 4))
        expected = images(model.normalize(clip)[:, :, 0])
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_kernels_of_images_are_not_left_out_of_a_network_of_flow_in_silence() -> None:
    """A first convolution that starts anew under trained layers would go unnoticed for days."""
    flow, images, luma = (
        nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Conv2d(4, 4, 3)) for channels in (20, 3, 1)
    )
    with pytest.raises(
        WeightsError,
        match=r"'0.weight': 3 channels of images in the weights where the model takes 20 of flow; "
        r"convert",
    ):
        load_matching(flow, images.state_dict())
    assert list(load_matching(luma, images.state_dict()).skipped_shape) == ["0.weight"]


# ---- files that are refused ----------------------------------------------------------------------


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command says on its one line."""
    capsys.readouterr()
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


WRITERS: dict[str, Callable[[Any, Path], object]] = {
    "torch": torch.save,
    "old torch": save_old,
    "pickle": lambda content, file: file.write_bytes(pickle.dumps(content)),
    "Python 2 pickle": lambda content, file: file.write_bytes(python2_pickle(content)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_code_is_not_run(
    kind: str, network: VideoModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, target, out = tmp_path / "weights.pkl", tmp_path / "made_by_pickle", tmp_path / "out"
    content = (caffe2 if "pickle" in kind else pytorchvideo)(network)
    WRITERS[kind]({**content, "lr": Malicious(target)}, file)
    said = error(capsys, "convert", str(file), "--out", str(out))
    assert all(word in said for word in (str(file), "mkdir is not allowed", "nothing in it was"))
    assert not target.exists()
    assert not out.exists()


@pytest.mark.parametrize("kind", [*WRITERS, "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(
    kind: str, share: float, network: VideoModel, tmp_path: Path
) -> None:
    file = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    content = (caffe2 if "pickle" in kind else pytorchvideo)(network)
    WRITERS.get(kind, safetensors.torch.save_file)(content, file)
    assert len(read_checkpoint(file)) > 100
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    message = f"^{re.escape(str(file))}: not a whole checkpoint of plain tensors .*again$"
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor, not named tensors"),
        ({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)}, "are conv1.weight, fc.bias"),
        ({"state_dict": {}}, "its first tensors are none"),
    ],
)
def test_files_of_other_networks(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=message):
        convert_weights(tmp_path / "x.pth", None, None, {}, tmp_path / "out")


def test_what_cannot_be_converted_is_one_line(
    network: VideoModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, text, out = tmp_path / "w.pth", tmp_path / "text.pkl", ["--out", str(tmp_path / "out")]
    text.write_text("weights")
    torch.save(pytorchvideo(network), file)
    into = ["convert", str(file), *out, "--architecture"]
    for words, message in (
        (["convert", str(tmp_path / "absent.pth"), *out], "cannot be read (No such file"),
        (["convert", str(tmp_path), *out], "cannot be read (Is a directory)"),
        (["convert", str(text), *out], "text.pkl: not a whole checkpoint of plain tensors"),
        ([*into, "i3d_smal"], "there is no model 'i3d_smal'; did you mean 'i3d_small'?"),
        ([*into, "mean_lstm_small"], "need a network that has 'layer1.0.conv1.weight'"),
        (
            [*into, "i3d_small", "--model.backbone.inflation", "table1"],
            "a kernel over 1 in time where 'backbone.layer2.1.conv1.weight' has 3",
        ),
    ):
        assert message in error(capsys, *words)
