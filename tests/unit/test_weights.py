"""Weights: a saved model comes back equal, other classes replace the classifier only, and bad files
say what is wrong with them.
"""

from __future__ import annotations

import json
import pickle
import resource
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from malicious import Malicious
from torch import nn

import vidgraph
from vidgraph import weights
from vidgraph.errors import RunError, WeightsError
from vidgraph.models.base import VideoModel
from vidgraph.models.build import create_model, resolve_options

NAMES = [f"class {i}" for i in range(7)]


@pytest.fixture
def model() -> VideoModel:
    torch.manual_seed(0)
    return vidgraph.create_model("rstg_small", class_names=NAMES, head={"width": 16}).eval()


@pytest.fixture
def run_folder(model: VideoModel, tmp_path: Path) -> Path:
    weights.save_weights(model, tmp_path / "run")
    return tmp_path / "run"


def equal_states(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_saved_model_comes_back_equal_with_names_spec_and_options(
    model: VideoModel, run_folder: Path
) -> None:
    loaded = vidgraph.from_pretrained(run_folder)
    assert equal_states(model, loaded)
    known = ("name", "class_names", "spec", "options", "num_classes", "multi_label")
    assert all(getattr(loaded, name) == getattr(model, name) for name in known)
    assert not loaded.training
    clip = torch.randint(0, 256, (2, 1, 10, 64, 64), dtype=torch.uint8)
    assert torch.equal(loaded(clip), model(clip))


def test_header_holds_what_rebuilds_the_model_and_config_json_is_its_copy(
    model: VideoModel, run_folder: Path
) -> None:
    config = json.loads((run_folder / "config.json").read_text())
    assert config["name"] == "rstg_small"
    assert config["num_classes"] == 7
    assert config["class_names"] == NAMES
    assert config["options"]["input"]["num_frames"] == 10
    assert config["options"]["head"]["width"] == 16
    assert config["version"] == vidgraph.__version__
    with safetensors.safe_open(run_folder / "model.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["vidgraph"]) == config
        assert {"normalize.mean", "normalize.std"} <= set(opened.keys())
    assert sorted(p.name for p in run_folder.iterdir()) == ["config.json", "model.safetensors"]
    # Whatever becomes of the copy, the header decides.
    for change in (lambda file: file.write_text("{}"), Path.unlink):
        change(run_folder / "config.json")
        assert equal_states(model, vidgraph.from_pretrained(run_folder))


def test_several_labels_per_clip_are_remembered(tmp_path: Path) -> None:
    weights.save_weights(
        create_model("rstg_small", 3, multi_label=True, head={"width": 8}), tmp_path
    )
    assert weights.from_pretrained(tmp_path).multi_label
    assert not weights.from_pretrained(tmp_path, num_classes=2).multi_label


def test_names_of_folders_strings_links_and_files_all_load(
    model: VideoModel, run_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(run_folder, target_is_directory=True)
    linked_file = tmp_path / "cache"
    linked_file.mkdir()
    # as the hub's cache has them
    (linked_file / "model.safetensors").symlink_to(run_folder / "model.safetensors")
    (linked_file / "config.json").symlink_to(run_folder / "config.json")
    for name in (str(run_folder), tmp_path / "link", linked_file, run_folder / "model.safetensors"):
        assert equal_states(model, vidgraph.from_pretrained(name))


def test_saving_over_a_link_is_refused(model: VideoModel, run_folder: Path, tmp_path: Path) -> None:
    before = (run_folder / "model.safetensors").read_bytes()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.safetensors").symlink_to(run_folder / "model.safetensors")
    with pytest.raises(RunError, match="it is a symbolic link"):
        weights.save_weights(vidgraph.create_model("digit_stem"), tmp_path / "new")
    assert (run_folder / "model.safetensors").read_bytes() == before
    assert [file.is_symlink() for file in (tmp_path / "new").iterdir()] == [True]


def test_bf16_model_comes_back_in_float32_with_the_same_values(
    model: VideoModel, tmp_path: Path
) -> None:
    weights.save_weights(model.bfloat16(), tmp_path)
    assert weights.load_state(tmp_path)["head.classifier.weight"].dtype == torch.bfloat16
    loaded = weights.from_pretrained(tmp_path)
    assert loaded.head.classifier.weight.dtype == torch.float32
    assert torch.equal(loaded.head.classifier.weight, model.head.classifier.weight.float())


def test_tied_and_channels_last_tensors_are_saved(model: VideoModel, tmp_path: Path) -> None:
    lstm = model.head.graph.final_time.lstm
    lstm.weight_hh_l0 = lstm.weight_ih_l0
    weights.save_weights(model.to(memory_format=torch.channels_last), tmp_path)
    assert equal_states(model, weights.from_pretrained(tmp_path))


def test_model_without_options_is_refused(model: VideoModel, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="create_model"):
        weights.save_weights(VideoModel(model.spec, 7), tmp_path)
    model.class_names = ["one"]
    with pytest.raises(WeightsError, match=r"rstg_small: .*1 class_names for 7 classes"):
        weights.save_weights(model, tmp_path)


# Other classes


def test_other_number_of_classes_replaces_the_classifier_only(
    model: VideoModel, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = vidgraph.from_pretrained(run_folder, num_classes=3)
    assert loaded.head.classifier.weight.shape == (3, 16)
    assert loaded.class_names is None
    state, other = model.state_dict(), loaded.state_dict()
    kept = [name for name in state if not name.startswith("head.classifier.")]
    assert all(torch.equal(state[name], other[name]) for name in kept)
    out, table = capsys.readouterr()
    assert out == ""
    assert "7 classes in the weights, 3 wanted" in table
    assert f"loaded      {len(state) - 2} tensors" in table
    assert "head.classifier.weight  [7, 16] -> [3, 16]" in table
    assert "head.classifier.bias  [7] -> [3]" in table


def test_other_names_replace_the_classifier_and_equal_names_do_not(
    model: VideoModel, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [f"mine {i}" for i in range(7)]
    loaded = vidgraph.from_pretrained(run_folder, class_names=others)
    assert loaded.class_names == others
    assert not torch.equal(loaded.head.classifier.weight, model.head.classifier.weight)
    assert "7 classes with other names" in capsys.readouterr().err
    assert equal_states(
        model, vidgraph.from_pretrained(run_folder, num_classes=7, class_names=NAMES)
    )
    assert capsys.readouterr().err == ""


def test_contradicting_classes_are_refused(run_folder: Path) -> None:
    with pytest.raises(WeightsError, match="num_classes is 3 but class_names has 2"):
        vidgraph.from_pretrained(run_folder, num_classes=3, class_names=["a", "b"])
    with pytest.raises(WeightsError, match="at least one class"):
        vidgraph.from_pretrained(run_folder, num_classes=0)


# Bad input: one line each


def truncate(folder: Path, size: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])


def edit_header(folder: Path, **changes: object) -> None:
    file = folder / "model.safetensors"
    with safetensors.safe_open(file, "pt") as opened:
        content = {**json.loads(opened.metadata()["vidgraph"]), **changes}
    header = {"vidgraph": json.dumps({k: v for k, v in content.items() if v != "gone"})}
    safetensors.torch.save_file(safetensors.torch.load_file(file), file, header)


def edit_head(folder: Path, **changes: object) -> None:
    options = json.loads((folder / "config.json").read_text())["options"]
    edit_header(folder, options={**options, "head": {**options["head"], **changes}})


def first_version(folder: Path, **changes: object) -> None:
    """As version 0.1 wrote it, with a broken `config.json`."""
    file = folder / "model.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(file), file)
    content = {"architecture": "rstg_small", "num_classes": 7, "options": {"width": 16}}
    content |= {"class_names": NAMES, "input_spec": {"num_frames": 10, "stride_frames": 1}}
    (folder / "config.json").write_text(json.dumps({**content, **changes}))


def without_header(folder: Path) -> None:
    first_version(folder)
    (folder / "config.json").unlink()


def replace_with_pickle(folder: Path) -> None:
    torch.save({"classifier.weight": torch.zeros(2)}, folder / "model.safetensors")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda folder: truncate(folder, 0), "truncated or no safetensors file (0 bytes"),
    "half": (lambda folder: truncate(folder, 9000), "no safetensors file (9,000 bytes"),
    "pickle inside": (replace_with_pickle, "can run code"),
    "no config": (without_header, "no config.json"),
    "0.1 without options": (lambda folder: first_version(folder, options=None), "no config.json"),
    "0.1 with another spec": (
        lambda folder: first_version(folder, input_spec={"num_frames": 0}),
        "options.input.num_frames: should be greater than or equal to 1",
    ),
    "no options": (lambda folder: edit_header(folder, options="gone"), "options is missing"),
    "numbers differ": (lambda folder: edit_header(folder, num_classes=5), "7 class_names for 5"),
    "wrong option": (lambda folder: edit_head(folder, width="wide"), "options.head.width: should"),
    "unknown model": (lambda folder: edit_header(folder, name="rstg_smal"), "mean 'rstg_small'?"),
    "other head": (
        lambda folder: edit_header(
            folder, options={**asdict(resolve_options("mean_lstm_small", {}, ""))}
        ),
        "missing: head.lstm.weight_ih_l0",
    ),
    "other width": (lambda folder: edit_head(folder, width=24), "of another shape: head.graph.pro"),
    "no folder content": (
        lambda folder: [file.unlink() for file in folder.iterdir()],
        "is not a run folder",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_run_folder_gives_one_clear_line(case: str, run_folder: Path) -> None:
    damage, expected = BROKEN[case]
    damage(run_folder)
    with pytest.raises(WeightsError) as caught:
        vidgraph.from_pretrained(run_folder)
    message = str(caught.value)
    assert expected in message
    assert str(run_folder) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "name", ["model.pt", "model.pth", "model.pkl", "last.ckpt", "pytorch_model.bin", "MODEL.PTH"]
)
def test_pickles_are_refused_unread(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Malicious(tmp_path / "trace")))
    for given in (file, tmp_path):
        with pytest.raises(WeightsError, match="can run code"):
            vidgraph.from_pretrained(given)
    file.rename(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError):
        weights.load_state(tmp_path)
    assert not (tmp_path / "trace").exists()


def test_unknown_names_say_the_nearest_or_what_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "list_shipped", lambda: ["rstg_small_sync3", "rstg_small_sync5"])
    with pytest.raises(
        WeightsError,
        match=r"rstg_smal_sync5: no weights are called that; did you mean 'rstg_small_sync5'\?",
    ):
        vidgraph.from_pretrained("rstg_smal_sync5")
    with pytest.raises(WeightsError, match="nowhere: no such folder"):
        vidgraph.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(WeightsError, match="neither a run folder nor"):
        vidgraph.from_pretrained(tmp_path / "notes.txt")


# Saving whole or not at all


def test_disk_full_while_saving_leaves_the_old_files_intact(
    model: VideoModel, run_folder: Path
) -> None:
    before = {file.name: file.read_bytes() for file in run_folder.iterdir()}
    nn.init.ones_(model.head.classifier.weight)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # no file may grow beyond 20 kB: writes fail half-way, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(
            RunError, match=r"cannot be written \(File too large\); an older file there is intact"
        ):
            weights.save_weights(model, run_folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {file.name: file.read_bytes() for file in run_folder.iterdir()} == before


def test_folder_that_cannot_be_written_gives_one_clear_line(
    model: VideoModel, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot be written"):
        weights.save_weights(model, tmp_path / "file")
