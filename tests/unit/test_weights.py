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
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import vidgraph
from vidgraph import weights
from vidgraph.errors import RunError, WeightsError

NAMES = [f"class {i}" for i in range(7)]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return vidgraph.create_model("rstg_small", class_names=NAMES, width=16, num_stages=1).eval()


@pytest.fixture
def run_folder(model: nn.Module, tmp_path: Path) -> Path:
    weights.save_weights(model, tmp_path / "run")
    return tmp_path / "run"


def equal_states(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_saved_model_comes_back_equal_with_names_spec_and_options(
    model: nn.Module, run_folder: Path
) -> None:
    loaded = vidgraph.from_pretrained(run_folder)
    assert equal_states(model, loaded)
    assert (loaded.class_names, loaded.input_spec, loaded.options) == (
        NAMES,
        model.input_spec,
        {"width": 16, "num_stages": 1},
    )
    assert not loaded.training
    clip = torch.randint(0, 256, (2, 1, 10, 64, 64), dtype=torch.uint8)
    assert torch.equal(loaded(clip), model(clip))


def test_config_holds_what_rebuilds_the_model(run_folder: Path) -> None:
    config = json.loads((run_folder / "config.json").read_text())
    assert config["architecture"] == "rstg_small"
    assert config["num_classes"] == 7
    assert config["class_names"] == NAMES
    assert config["input_spec"]["num_frames"] == 10
    assert config["version"] == vidgraph.__version__
    assert sorted(p.name for p in run_folder.iterdir()) == ["config.json", "model.safetensors"]


def test_changed_input_spec_is_kept(model: nn.Module, tmp_path: Path) -> None:
    model.input_spec = type(model.input_spec)(
        num_frames=6, height=64, width=64, channels=1, sample_fps=5.0
    )
    weights.save_weights(model, tmp_path)
    assert weights.from_pretrained(tmp_path).input_spec == model.input_spec


def test_names_of_folders_strings_links_and_files_all_load(
    model: nn.Module, run_folder: Path, tmp_path: Path
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


def test_saving_over_a_link_is_refused(model: nn.Module, run_folder: Path, tmp_path: Path) -> None:
    before = (run_folder / "model.safetensors").read_bytes()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.safetensors").symlink_to(run_folder / "model.safetensors")
    with pytest.raises(RunError, match="it is a symbolic link"):
        weights.save_weights(vidgraph.create_model("digit_stem"), tmp_path / "new")
    assert (run_folder / "model.safetensors").read_bytes() == before
    assert [file.is_symlink() for file in (tmp_path / "new").iterdir()] == [True]


def test_bf16_model_comes_back_in_float32_with_the_same_values(
    model: nn.Module, tmp_path: Path
) -> None:
    weights.save_weights(model.bfloat16(), tmp_path)
    assert weights.read_state(tmp_path)["classifier.weight"].dtype == torch.bfloat16
    loaded = weights.from_pretrained(tmp_path)
    assert loaded.classifier.weight.dtype == torch.float32
    assert torch.equal(loaded.classifier.weight, model.classifier.weight.float())


def test_tied_channels_last_and_compiled_tensors_are_saved(
    model: nn.Module, tmp_path: Path
) -> None:
    model.graph.final_time.lstm.weight_hh_l0 = model.graph.final_time.lstm.weight_ih_l0
    model = model.to(memory_format=torch.channels_last)
    weights.save_weights(torch.compile(model), tmp_path)
    assert equal_states(model, weights.from_pretrained(tmp_path))


def test_complex_tensors_survive_and_never_become_real(tmp_path: Path) -> None:
    state = {"sketch": torch.complex(torch.rand(3), torch.rand(3))}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    layer = nn.Module()
    layer.register_buffer("sketch", torch.zeros(3, dtype=torch.complex64))
    assert weights.load_matching(layer, weights.read_state(tmp_path)).complete
    assert torch.equal(layer.sketch, state["sketch"])
    layer.sketch = torch.zeros(3)
    with pytest.raises(WeightsError, match=r"sketch \(\[3\] complex, the model has \[3\]\)"):
        weights.load_matching(layer, state)


def test_complex128_is_refused_with_a_reason(model: nn.Module, tmp_path: Path) -> None:
    model.register_buffer("wide", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(WeightsError, match=r"'wide': torch.complex128 .* complex64"):
        weights.save_weights(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_model_that_was_not_created_by_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="create_model"):
        weights.save_weights(nn.Linear(2, 2), tmp_path)


# Other classes


def test_other_number_of_classes_replaces_the_classifier_only(
    model: nn.Module, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = vidgraph.from_pretrained(run_folder, num_classes=3)
    assert loaded.classifier.weight.shape == (3, 16)
    assert loaded.class_names is None
    state, other = model.state_dict(), loaded.state_dict()
    assert all(
        torch.equal(state[name], other[name])
        for name in state
        if not name.startswith("classifier.")
    )
    out, table = capsys.readouterr()
    assert out == ""
    assert "7 classes in the weights, 3 wanted" in table
    assert f"loaded      {len(state) - 2} tensors" in table
    assert "classifier.weight  [7, 16] -> [3, 16]" in table
    assert "classifier.bias  [7] -> [3]" in table


def test_other_names_replace_the_classifier_and_equal_names_do_not(
    model: nn.Module, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [f"mine {i}" for i in range(7)]
    loaded = vidgraph.from_pretrained(run_folder, class_names=others)
    assert loaded.class_names == others
    assert not torch.equal(loaded.classifier.weight, model.classifier.weight)
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
    report = weights.load_matching(model, state)
    assert report.loaded == ["0.weight", "1.bias"]
    assert report.skipped_shape == {"0.bias": ("[5]", "[3]")}
    assert report.missing == ["1.weight"]
    assert report.unexpected == ["9.weight"]
    assert torch.equal(model[0].weight, torch.ones(3, 2))
    assert "0.bias  [5] -> [3]" in report.to_text()


def test_load_matching_takes_a_stem_and_refuses_weights_that_have_nothing_in_common() -> None:
    stem, model = vidgraph.create_model("digit_stem"), vidgraph.create_model("rstg_small")
    report = weights.load_matching(model, stem.state_dict())
    assert report.loaded
    assert all(name.startswith("stem.") for name in report.loaded)
    assert sorted(report.skipped_shape) == ["classifier.bias"]
    with pytest.raises(WeightsError, match="no tensor of these weights fits"):
        weights.load_matching(nn.Linear(2, 2), stem.state_dict())


# Bad input: one line each


def truncate(folder: Path, size: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def replace_with_pickle(folder: Path) -> None:
    torch.save({"classifier.weight": torch.zeros(2)}, folder / "model.safetensors")


BROKEN = {
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
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "broken config": (
        lambda folder: (folder / "config.json").write_text('{"architecture":'),
        "not readable JSON",
    ),
    "config is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "'architecture' is missing",
    ),
    "config without options": (
        lambda folder: edit_config(folder, options=None),
        "'options' is missing or not usable",
    ),
    "no classes": (
        lambda folder: edit_config(folder, num_classes=0, class_names=None),
        "'num_classes' is 0",
    ),
    "wrong spec": (
        lambda folder: edit_config(folder, input_spec={"num_frames": 3}),
        "'input_spec' is not usable",
    ),
    "names and number differ": (
        lambda folder: edit_config(folder, num_classes=5),
        "7 class_names for 5 num_classes",
    ),
    "unknown architecture": (
        lambda folder: edit_config(folder, architecture="rstg_smal"),
        "did you mean 'rstg_small'?",
    ),
    "unknown option": (
        lambda folder: edit_config(folder, options={"colour": 1}),
        "has no option 'colour'",
    ),
    "wrong option": (
        lambda folder: edit_config(folder, options={"width": "wide"}),
        "cannot be built from it",
    ),
    "other architecture": (
        lambda folder: edit_config(folder, architecture="mean_lstm_small", options={"width": 16}),
        "missing: lstm.weight_ih_l0",
    ),
    "other width": (
        lambda folder: edit_config(folder, options={"width": 24, "num_stages": 1}),
        "of another shape: graph.project.weight ([16,",
    ),
    "other option": (
        lambda folder: edit_config(folder, options={"width": 16, "time_stages": "final"}),
        "unexpected: graph.time.lstm",
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
        weights.read_state(tmp_path)
    assert not (tmp_path / "trace").exists()


def test_header_that_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    """A safetensors file starts with its header's length: 640 bytes read as a pickle of protocol
    2.
    """
    tensor = {"weight": torch.arange(4.0)}
    for padding in range(700):
        data = safetensors.torch.save(tensor, metadata={"note": "x" * padding})
        if data.startswith(b"\x80\x02"):
            break
    assert data.startswith(b"\x80\x02")
    (tmp_path / "model.safetensors").write_bytes(data)
    assert torch.equal(weights.read_state(tmp_path)["weight"], tensor["weight"])


def test_unknown_names_say_the_nearest_or_what_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "list_shipped", lambda: ["rstg_small_sync3", "rstg_small_sync5"])
    with pytest.raises(
        WeightsError,
        match=r"no weights are called 'rstg_smal_sync5'; did you mean 'rstg_small_sync5'\?",
    ):
        vidgraph.from_pretrained("rstg_smal_sync5")
    with pytest.raises(WeightsError, match="nowhere: no such folder"):
        vidgraph.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(WeightsError, match="neither a run folder nor"):
        vidgraph.from_pretrained(tmp_path / "notes.txt")


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
    hub_cache: Path, model: nn.Module, run_folder: Path
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
    hub_server: list[str], model: nn.Module
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
    model: nn.Module, run_folder: Path
) -> None:
    before = {file.name: file.read_bytes() for file in run_folder.iterdir()}
    nn.init.ones_(model.classifier.weight)
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
    model: nn.Module, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot be written"):
        weights.save_weights(model, tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_gives_one_clear_line(model: nn.Module, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunError, match="Permission denied"):
            weights.save_weights(model, tmp_path)
    finally:
        tmp_path.chmod(0o700)


# The package


def test_shipped_weights_load_by_name() -> None:
    for name in weights.list_shipped():
        model = vidgraph.from_pretrained(name)
        assert (weights.shipped_folder(name) / "card.md").is_file()
        assert len(model.class_names) == model.classifier.out_features
        assert (weights.shipped_folder(name) / "model.safetensors").stat().st_size < 5e6
    assert vidgraph.list_models(pretrained=True) == weights.list_shipped()
    assert "rstg_small" in vidgraph.list_models()
