"""Weights: a saved model comes back equal, other classes replace the classifier only, and bad files
say what is wrong with them.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from closeness import assert_close_to_scale
from torch import nn

import vidgraph
from vidgraph import weights
from vidgraph.errors import RunError, WeightsError
from vidgraph.models.base import VideoModel
from vidgraph.models.build import create_model, resolve_options
from vidgraph.models.compat import upgrade_tensor
from vidgraph.models.matching import load_matching
from vidgraph.records import Regions

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
    (linked_file / "model.safetensors").symlink_to(
        run_folder / "model.safetensors"
    )  # as the hub's cache has them
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
    assert all(
        torch.equal(state[name], other[name])
        for name in state
        if not name.startswith("head.classifier.")
    )
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


def test_load_matching_reports_every_tensor() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    state = {
        "0.weight": torch.ones(3, 2),
        "0.bias": torch.ones(5),
        "9.weight": torch.ones(1),
        "1.bias": torch.ones(4),
    }
    report = load_matching(model, state)
    assert report.loaded == ["0.weight", "1.bias"]
    assert report.skipped_shape == {"0.bias": ("[5]", "[3]")}
    assert report.missing == ["1.weight"]
    assert report.unexpected == ["9.weight"]
    assert torch.equal(model[0].weight, torch.ones(3, 2))
    assert "0.bias  [5] -> [3]" in report.to_text()


def test_load_matching_takes_a_backbone_and_refuses_weights_that_have_nothing_in_common() -> None:
    state, model = weights.load_state("digit_stem"), vidgraph.create_model("rstg_small")
    report = load_matching(model, state)
    backbone = {name for name in model.state_dict() if name.startswith("backbone.")}
    assert set(report.loaded) == backbone
    assert sorted(report.skipped_shape) == ["head.classifier.bias"]
    with pytest.raises(WeightsError, match="no tensor of these weights fits"):
        load_matching(nn.Linear(2, 2), state)


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


def without_header(folder: Path, config: str | None) -> None:
    first_version(folder)
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(config)


def replace_with_pickle(folder: Path) -> None:
    torch.save({"classifier.weight": torch.zeros(2)}, folder / "model.safetensors")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (
        lambda folder: truncate(folder, 0),
        "model.safetensors: truncated or no safetensors file (0 bytes",
    ),
    "header only": (lambda folder: truncate(folder, 40), "truncated"),
    "half": (
        lambda folder: truncate(folder, 9000),
        "truncated or no safetensors file (9,000 bytes",
    ),
    "pickle inside": (replace_with_pickle, "can run code"),
    "no config": (lambda folder: without_header(folder, None), "no config.json"),
    "broken config": (
        lambda folder: without_header(folder, '{"architecture":'),
        "not readable JSON",
    ),
    "config is a list": (lambda folder: without_header(folder, "[]"), "should be a dictionary"),
    "0.1 without options": (
        lambda folder: first_version(folder, options=None),
        "no config.json that vidgraph wrote",
    ),
    "0.1 with an unknown option": (
        lambda folder: first_version(folder, options={"colour": 1}),
        "unknown key options.head.colour",
    ),
    "0.1 of an unknown architecture": (
        lambda folder: first_version(folder, architecture="rstg_smal"),
        "did you mean 'rstg_small'?",
    ),
    "0.1 with another spec": (
        lambda folder: first_version(folder, input_spec={"num_frames": 0}),
        "options.input.num_frames: should be greater than or equal to 1",
    ),
    "no options": (lambda folder: edit_header(folder, options="gone"), "options is missing"),
    "no classes": (lambda folder: edit_header(folder, num_classes=0), "num_classes: should be"),
    "names and number differ": (
        lambda folder: edit_header(folder, num_classes=5),
        "7 class_names for 5 classes",
    ),
    "unknown model": (
        lambda folder: edit_header(folder, name="rstg_smal"),
        "did you mean 'rstg_small'?",
    ),
    "unknown option": (lambda folder: edit_head(folder, colour=1), "unknown key options.head.col"),
    "wrong option": (lambda folder: edit_head(folder, width="wide"), "options.head.width: should"),
    "options that do not fit": (
        lambda folder: edit_head(folder, scales=[3, 2]),
        "extras.context needs a node of the whole frame",
    ),
    "other head": (
        lambda folder: edit_header(
            folder,
            options={**asdict(resolve_options("mean_lstm_small", {}, ""))},
        ),
        "missing: head.lstm.weight_ih_l0",
    ),
    "other width": (
        lambda folder: edit_head(folder, width=24),
        "of another shape: head.graph.project.weight ([16,",
    ),
    "other option": (
        lambda folder: edit_head(folder, time_stages="final"),
        "unexpected: head.graph.time.lstm",
    ),
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


class Explosive:
    """Leaves a trace if anything unpickles it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize(
    "name", ["model.pt", "model.pth", "model.pkl", "last.ckpt", "pytorch_model.bin", "MODEL.PTH"]
)
def test_pickles_are_refused_unread(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Explosive(tmp_path / "trace")))
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


def test_a_mistyped_run_folder_is_not_looked_up_on_the_hub(
    hub_server: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("runs/mine", "mine/first"):
        with pytest.raises(WeightsError, match=f"{name}: no such folder") as error:
            vidgraph.from_pretrained(name)
        assert "\n" not in str(error.value)
    assert hub_server == []


# The hub


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and an address that no name server knows: a machine without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    for name in (
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


def test_offline_hub_gives_one_clear_line(hub_cache: Path) -> None:
    with pytest.raises(
        WeightsError, match="someone/model: no such folder here, and the hub cannot be reached"
    ):
        vidgraph.from_pretrained("someone/model")


def test_hub_model_in_the_cache_loads_without_a_network(
    hub_cache: Path, model: VideoModel, run_folder: Path
) -> None:
    commit = "0" * 40
    repository = hub_cache / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(run_folder, repository / "snapshots" / commit)
    assert equal_states(model, vidgraph.from_pretrained("someone/model"))


@pytest.fixture
def hub_server(
    hub_cache: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """A hub on this machine that holds `someone/model`; yields the files that it was asked for."""
    from huggingface_hub import constants

    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, with_body: bool) -> None:
            owner, file = (
                self.path.split("/resolve/main/")
                if "/resolve/main/" in self.path
                else (self.path, "")
            )
            asked.append(file)
            found = owner == "/someone/model" and (run_folder / file).is_file()
            body = (run_folder / file).read_bytes() if found else b""
            self.send_response(200 if found else 404)
            if not found:
                self.send_header(
                    "X-Error-Code", "EntryNotFound" if owner == "/someone/model" else "RepoNotFound"
                )
            self.send_header("ETag", f'"{hash(body):x}"')
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if with_body else b"")

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    yield asked
    server.shutdown()
    server.server_close()


def test_hub_model_is_downloaded_with_two_files_and_nothing_else(
    hub_server: list[str], model: VideoModel
) -> None:
    assert equal_states(model, vidgraph.from_pretrained("someone/model"))
    assert set(hub_server) == {"config.json", "model.safetensors"}


def test_hub_answers_are_told_in_one_line(hub_server: list[str], run_folder: Path) -> None:
    with pytest.raises(
        WeightsError,
        match="someone/other: no such folder here, and no such \\(public\\) model on the hub",
    ):
        vidgraph.from_pretrained("someone/other")
    (run_folder / "config.json").unlink()
    with pytest.raises(
        WeightsError, match=r"someone/model: the model on the hub has no config.json"
    ):
        vidgraph.from_pretrained("someone/model")


# Saving whole or not at all


def test_disk_full_while_saving_leaves_the_old_files_intact(
    model: VideoModel, run_folder: Path
) -> None:
    before = {file.name: file.read_bytes() for file in run_folder.iterdir()}
    nn.init.ones_(model.head.classifier.weight)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (20_000, hard)
    )  # no file may grow beyond 20 kB: writes fail half-way, as on a full disk
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_gives_one_clear_line(model: VideoModel, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunError, match="Permission denied"):
            weights.save_weights(model, tmp_path)
    finally:
        tmp_path.chmod(0o700)


# Shipped weights, and others of version 0.1

ROOT = Path(__file__).parents[2]
STORED = json.loads((ROOT / "tests" / "golden" / "logits_of_0_1.json").read_text())
FOLDERS = {
    folder.name: folder
    for parent in (ROOT / "src" / "vidgraph" / "shipped", ROOT / "results" / "weights")
    for folder in sorted(parent.iterdir())
    if (folder / "model.safetensors").is_file()
}


def fixed_inputs(model: VideoModel) -> dict[str, Any]:
    """Two clips of coarse noise, as for the stored logits."""
    spec, draw = model.spec, np.random.RandomState(7)
    clip, size = (2, spec.num_frames), (spec.height, spec.width)

    def noise(*shape: int) -> torch.Tensor:
        coarse = draw.randint(0, 256, (*shape[:-2], shape[-2] // 16, shape[-1] // 16))
        return torch.from_numpy(coarse.repeat(16, -2).repeat(16, -1).astype(np.uint8))

    inputs: dict[str, Any] = {}
    if spec.channels:
        inputs["video"] = noise(2, spec.channels, spec.num_frames, *size)
    if spec.flow_length:
        inputs["flow"] = noise(*clip, spec.num_stacks, 2 * spec.flow_length, *size)
    if spec.boxes_per_frame:
        corner = draw.uniform(0, 0.6, (*clip, spec.boxes_per_frame, 2))
        extent = draw.uniform(0.2, 0.4, corner.shape)
        boxes = torch.from_numpy(np.concatenate([corner, corner + extent], -1)).float()
        mask = torch.ones(boxes.shape[:3], dtype=torch.bool)
        mask[1, 0, 0] = False
        inputs["regions"] = Regions(boxes, mask.float(), mask)
    return inputs


@pytest.mark.parametrize("name", STORED)
def test_weights_of_the_first_version_score_as_they_did(name: str) -> None:
    """Every tensor of the file has its place, every tensor of the model is filled, and the first
    logits of two clips are those that version 0.1 gave."""
    model = weights.from_pretrained(FOLDERS[name])
    with torch.inference_mode():
        logits = model(**fixed_inputs(model))[:, :8]
    assert_close_to_scale(logits, torch.tensor(STORED[name]))


def test_shipped_weights_load_by_name() -> None:
    assert set(weights.list_shipped()) <= set(STORED)
    for name in weights.list_shipped():
        model = vidgraph.from_pretrained(name)
        assert (weights.shipped_folder(name) / "card.md").is_file()
        assert model.class_names is not None
        assert len(model.class_names) == model.num_classes
        assert (weights.shipped_folder(name) / "model.safetensors").stat().st_size < 5e6
    assert vidgraph.list_models(pretrained=True) == weights.list_shipped()
    assert "rstg_small" in vidgraph.list_models()


def test_names_of_tensors_become_todays() -> None:
    for architecture, old, new in (
        ("i3d_r50", "stem.res2.0.a_norm.weight", "backbone.layer1.0.bn1.weight"),
        ("i3d_r50", "stem.res5.0.shortcut.weight", "backbone.layer4.0.downsample.0.weight"),
        ("i3d_nl_r50", "stem.after.res3_1.out_norm.bias", "backbone.inserted.layer2_1.out_norm.b"),
        ("i3d_digits_small", "backbone.stem.conv.weight", "backbone.resnet3d.conv1.weight"),
        ("i3d_digits_small", "stem.layers.0.weight", "backbone.layers.0.weight"),
        ("rstg_small", "graph.create.standardise.bias", "head.graph.extras.standardise.bias"),
        ("rstg_c2d_r50", "on_top.norm.weight", "head.rstg.norm.weight"),
    ):
        assert upgrade_tensor(old, architecture).startswith(new)
