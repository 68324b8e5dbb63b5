"""Weights by the name of a model on the hub: downloaded, cached, or one line that says why not."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import vidgraph
from vidgraph import weights
from vidgraph.errors import WeightsError
from vidgraph.models.base import VideoModel


@pytest.fixture
def model() -> VideoModel:
    return vidgraph.create_model("digit_stem")


@pytest.fixture
def run_folder(model: VideoModel, tmp_path: Path) -> Path:
    weights.save_weights(model, tmp_path / "run")
    return tmp_path / "run"


def equal_states(one: VideoModel, other: VideoModel) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and an address that no name server knows: a machine without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path / "hub"


def test_offline_hub_gives_one_clear_line(hub_cache: Path) -> None:
    words = "someone/model: no such folder here, and the hub cannot be reached"
    with pytest.raises(WeightsError, match=words):
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
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, with_body: bool) -> None:
            owner, _, file = self.path.partition("/resolve/main/")
            asked.append(file)
            found = owner == "/someone/model" and (run_folder / file).is_file()
            body = (run_folder / file).read_bytes() if found else b""
            self.send_response(200 if found else 404)
            if not found:
                kind = "Entry" if owner == "/someone/model" else "Repo"
                self.send_header("X-Error-Code", f"{kind}NotFound")
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
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield asked
    server.shutdown()
    server.server_close()


def test_hub_model_is_downloaded_with_two_files_and_nothing_else(
    hub_server: list[str], model: VideoModel
) -> None:
    assert equal_states(model, vidgraph.from_pretrained("someone/model"))
    assert set(hub_server) == {"config.json", "model.safetensors"}


def test_hub_answers_are_told_in_one_line(hub_server: list[str], run_folder: Path) -> None:
    words = r"someone/other: no such folder here, and no such \(public\) model on the hub"
    with pytest.raises(WeightsError, match=words):
        vidgraph.from_pretrained("someone/other")
    (run_folder / "config.json").unlink()
    words = r"someone/model: the model on the hub has no config.json"
    with pytest.raises(WeightsError, match=words):
        vidgraph.from_pretrained("someone/model")


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
