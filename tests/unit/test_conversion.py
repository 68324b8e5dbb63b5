"""`vidgraph convert` on files: torch's two formats and Python 2's pickles in, weights and their
report out; files that are refused.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from closeness import assert_close_to_scale
from torch import Tensor, nn

import vidgraph
from vidgraph.cli import main
from vidgraph.conversion import convert_weights, read_checkpoint
from vidgraph.errors import WeightsError


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """An I3D of 5 classes whose every tensor is drawn, so that none can stand in for another."""
    model = vidgraph.create_model("i3d_small", 5, res5_stride=2)
    draw = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand(tensor.shape, generator=draw) * 0.2
                + (0.5 if name.endswith(("running_var", "norm.weight")) else 0)
            )
    return model


def renamed(model: nn.Module, pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Our tensors under foreign names; a pattern is replaced at its first match, rules one after
    another.
    """
    found = {}
    for name, tensor in model.state_dict().items():
        for pattern, theirs in pairs:
            name = re.sub(pattern, theirs, name)
        found[name] = tensor
    return found


def pytorchvideo(model: nn.Module) -> dict[str, Tensor]:
    pairs = [
        (rf"^stem\.res{stage}\.", f"blocks.{block}.res_blocks.")
        for stage, block in ((2, 1), (3, 3), (4, 4), (5, 5))
    ]
    pairs += [
        (r"\.shortcut_norm\.", ".branch1_norm."),
        (r"\.shortcut\.", ".branch1_conv."),
        (r"^stem\.stem\.", "blocks.0."),
    ]
    return renamed(
        model,
        [
            *pairs,
            (r"\.([abc])_norm", r".branch2.norm_\1"),
            (r"\.([abc])\.", r".branch2.conv_\1."),
            ("^classifier", "blocks.6.proj"),
        ],
    )


def something_else(model: nn.Module) -> dict[str, Tensor]:
    pairs = [(rf"^stem\.res{layer + 1}\.", f"module.layer{layer}.") for layer in (1, 2, 3, 4)]
    pairs += [(rf"\.{letter}_norm\.", f".conv{i}.1.") for i, letter in enumerate("abc", 1)]
    pairs += [(rf"\.{letter}\.", f".conv{i}.0.") for i, letter in enumerate("abc", 1)]
    pairs += [
        (r"\.shortcut_norm\.", ".shortcut.1."),
        (r"\.shortcut\.weight", ".shortcut.0.weight"),
        ("^classifier", "module.fc"),
    ]
    return renamed(
        model,
        [*pairs, (r"^stem\.stem\.conv", "module.conv1"), (r"^stem\.stem\.norm", "module.bn1")],
    )


def caffe2(model: nn.Module) -> dict[str, np.ndarray]:
    pairs = [
        (r"^stem\.res(\d)\.(\d)\.", r"res\1_\2_"),
        (r"^stem\.stem\.conv", "conv1"),
        (r"^stem\.stem\.norm", "res_conv1_norm"),
    ]
    pairs += [
        ("_shortcut", "_branch1"),
        (r"_([abc])(_norm)?\.", r"_branch2\1\2."),
        ("_norm", "_bn"),
        ("^classifier", "pred"),
    ]
    pairs += [
        (r"_bn\.weight", "_bn_s"),
        (r"\.weight", "_w"),
        (r"\.bias", "_b"),
        (r"\.running_mean", "_rm"),
        (r"\.running_var", "_riv"),
    ]
    return {
        name: value.numpy()
        for name, value in renamed(model, pairs).items()
        if "num_batches" not in name
    }


class Python2Pickler(pickle._Pickler):
    """Writes texts and bytes as Python 2's one kind of string, and numpy's functions where numpy 1
    had them.
    """

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


def same_weights(folder: Path, network: nn.Module) -> nn.Module:
    found = vidgraph.from_pretrained(folder)
    expected = network.state_dict()
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
    return found


@pytest.mark.parametrize("zipped", [True, False])
def test_convert_a_torch_checkpoint(
    zipped: bool, network: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all that a training code stores around the weights, in the format of today and that of
    before 2020.
    """
    around = {
        "epoch": 196,
        "cfg": "TRAIN:\n  ENABLE: true",
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }
    file, out = tmp_path / "I3D.pyth", tmp_path / "out"
    torch.save(
        {"model_state": pytorchvideo(network), **around},
        file,
        _use_new_zipfile_serialization=zipped,
    )
    assert main(["convert", str(file), "--architecture", "i3d_small", "--out", str(out)]) == 0
    found = same_weights(out, network)
    clip = torch.rand(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found(clip), network.eval()(clip))
    assert (
        found.input_spec.num_frames,
        found.input_spec.stride_frames,
        found.input_spec.sample_fps,
    ) == (8, 8, None)
    assert found.pixels.mean.flatten().tolist() == pytest.approx([0.45] * 3)
    printed = capsys.readouterr().out
    total = len(network.state_dict())
    assert (
        f"PyTorchVideo: {total} tensors converted into i3d_small stem=padded res5_stride=2 "
        "pixels=kinetics" in printed
    )
    assert "left out" not in printed
    report = json.loads((out / "conversion.json").read_text())
    assert (report["file"], report["codebase"], report["num_converted"], report["left_out"]) == (
        "I3D.pyth",
        "PyTorchVideo",
        total,
        {},
    )
    assert (
        report["names"]["blocks.3.res_blocks.1.branch2.norm_b.running_var"]
        == "stem.res3.1.b_norm.running_var"
    )


def test_pixel_statistics_and_strides_go_with_the_weights(
    network: nn.Module, tmp_path: Path
) -> None:
    """Something-Else normalises as ImageNet does, keeps 14 x 14 cells in res5 and does not pad its
    first pool.
    """
    torch.save(
        {"state_dict": something_else(network), "best_loss": 1.5, "arch": "i3d"},
        tmp_path / "best.pth.tar",
    )
    report = convert_weights(tmp_path / "best.pth.tar", "i3d_small", None, {}, tmp_path / "out")
    assert report.options == {"stem": "valid", "res5_stride": 1, "pixels": "imagenet"}
    found = same_weights(tmp_path / "out", network)
    assert found.pixels.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert found.pixels.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert found.stem.strides == (2, 16, 16)
    convert_weights(
        tmp_path / "best.pth.tar",
        "i3d_small",
        None,
        {"res5_stride": 2, "pixels": "kinetics"},
        tmp_path / "asked",
    )
    asked = same_weights(tmp_path / "asked", network)
    assert asked.pixels.mean.flatten().tolist() == pytest.approx([0.45] * 3)
    assert asked.stem.strides == (2, 32, 32)


@pytest.mark.parametrize(
    "write",
    [
        python2_pickle,
        lambda content: pickle.dumps(content, 0),
        lambda content: pickle.dumps(content, 4),
    ],
)
def test_convert_a_pickle_of_blobs(
    write: Callable[[Any], bytes], network: nn.Module, tmp_path: Path
) -> None:
    blobs = caffe2(network)
    state = {
        "conv1_w_momentum": blobs["conv1_w"],
        "lr": np.array([0.01], np.float32),
        "model_iter": 400_000,
    }
    (tmp_path / "i3d.pkl").write_bytes(write({"blobs": {**blobs, **state}}))
    report = convert_weights(tmp_path / "i3d.pkl", "i3d_small", None, {}, tmp_path / "out")
    found = same_weights(tmp_path / "out", network)
    assert report.left_out.keys() == state.keys()
    assert report.names.keys() == blobs.keys()
    assert report.options == {"stem": "valid", "res5_stride": 2, "pixels": "kinetics"}
    assert found.pixels.std.flatten().tolist() == pytest.approx([57.375 / 255] * 3)


def test_head_for_other_classes(
    network: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = pytorchvideo(network)
    torch.save(weights, tmp_path / "w.pth")
    words = [
        "convert",
        str(tmp_path / "w.pth"),
        "--architecture",
        "i3d_small",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--num-classes", "7"]) == 0
    printed = capsys.readouterr().out
    assert (
        "left out  blocks.6.proj.weight, blocks.6.proj.bias: classifier of 5 classes, and the "
        "model has 7" in printed
    )
    assert "anew      classifier.weight, classifier.bias" in printed
    found = vidgraph.from_pretrained(tmp_path / "out")
    assert found.classifier.out_features == 7
    assert torch.equal(
        found.state_dict()["stem.stem.conv.weight"], network.state_dict()["stem.stem.conv.weight"]
    )
    torch.save(
        {name: value for name, value in weights.items() if "proj" not in name}, tmp_path / "w.pth"
    )
    assert "has no classifier; say how many classes yours is to have: --num-classes N" in error(
        capsys, *words
    )
    assert main([*words, "--num-classes", "7"]) == 0


# ---- files that are refused ----------------------------------------------------------------------


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command says on its one line."""
    capsys.readouterr()
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


WRITERS: dict[str, Callable[[Any, Path], object]] = {
    "torch": torch.save,
    "old torch": lambda content, file: torch.save(
        content, file, _use_new_zipfile_serialization=False
    ),
    "pickle": lambda content, file: file.write_bytes(pickle.dumps(content)),
    "Python 2 pickle": lambda content, file: file.write_bytes(python2_pickle(content)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_code_is_not_run(
    kind: str, network: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, target = tmp_path / "weights.pkl", tmp_path / "made_by_pickle"
    WRITERS[kind](
        {**(caffe2 if "pickle" in kind else pytorchvideo)(network), "lr": Malicious(target)}, file
    )
    said = error(
        capsys, "convert", str(file), "--architecture", "i3d_small", "--out", str(tmp_path / "out")
    )
    assert str(file) in said
    assert "mkdir is not allowed" in said
    assert "nothing in it was run" in said
    assert not target.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(
    kind: str, share: float, network: nn.Module, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    WRITERS[kind]((caffe2 if "pickle" in kind else pytorchvideo)(network), file)
    assert len(read_checkpoint(file)) > 100
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(
        WeightsError,
        match=f"^{re.escape(str(file))}: not a whole checkpoint of plain tensors .*download it "
        "again$",
    ):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor, not named tensors"),
        (
            {"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)},
            "no 3D ResNet of PyTorchVideo, .* its first tensors are conv1.weight, fc.bias",
        ),
        ({"state_dict": {}}, "its first tensors are none"),
    ],
)
def test_files_of_other_networks(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=message):
        convert_weights(tmp_path / "x.pth", None, None, {}, tmp_path / "out")


def test_places_that_hold_no_checkpoint(
    network: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert "absent.pth: cannot be read (No such file or directory)" in error(
        capsys, "convert", str(tmp_path / "absent.pth"), *out
    )
    assert "cannot be read (Is a directory)" in error(capsys, "convert", str(tmp_path), *out)
    (tmp_path / "text.pkl").write_text("weights")
    assert "text.pkl: not a whole checkpoint of plain tensors" in error(
        capsys, "convert", str(tmp_path / "text.pkl"), *out
    )
    torch.save(pytorchvideo(network), tmp_path / "w.pth")
    words = ["convert", str(tmp_path / "w.pth"), *out, "--architecture"]
    assert "there is no architecture 'i3d_smal'; did you mean 'i3d_small'?" in error(
        capsys, *words, "i3d_smal"
    )
    assert "are a 3D ResNet's, and a MeanLSTM has none" in error(capsys, *words, "mean_lstm_small")
    assert (
        "'blocks.3.res_blocks.1.branch2.conv_a.weight': a kernel over 1 in time where "
        "'stem.res3.1.a.weight' has 3"
        in error(capsys, *words, "i3d_small", "--model.options.inflation", "table1")
    )


def test_convert_an_image_resnet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A still clip through the inflated network is the image through torchvision's; the pixels are
    ImageNet's.
    """
    torch.manual_seed(0)
    images = torchvision.models.resnet50(weights=None).eval()
    torch.save(images.state_dict(), tmp_path / "resnet50.pth")
    command = [
        "convert",
        str(tmp_path / "resnet50.pth"),
        "--num-classes",
        "5",
        "--model.options.inflation",
        "none",
    ]
    assert main([*command, "--model.options.res5_stride", "2", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "torchvision, inflated: 318 tensors" in printed
    assert "classifier of images" in printed
    model = vidgraph.from_pretrained(tmp_path / "out")
    assert (model.options["pixels"], model.classifier.out_features) == ("imagenet", 5)
    image = torch.rand(1, 3, 64, 64)
    images.fc = nn.Identity()
    with torch.no_grad():
        features = model.stem(model.pixels(image[:, :, None].expand(-1, -1, 4, -1, -1))).mean(
            dim=(2, 3, 4)
        )
        assert_close_to_scale(features, images(model.pixels(image[:, :, None])[:, :, 0]), rel=1e-4)


def test_image_resnets_that_do_not_fit(tmp_path: Path) -> None:
    state = torchvision.models.resnet50(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet50.pth")
    cases: list[tuple[str, int | None, str]] = [
        ("i3d_r50", None, "--num-classes N"),
        ("i3d_small", 5, "give a ResNet of its"),
        ("rstg_small", 5, "rstg_small has none"),
    ]
    for architecture, classes, words in cases:
        with pytest.raises(WeightsError, match=words):
            convert_weights(tmp_path / "resnet50.pth", architecture, classes, {}, tmp_path / "out")
