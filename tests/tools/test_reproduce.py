"""`vidgraph reproduce` on a tiny recipe: the table and its comparisons, what is not done twice,
going on after a stop, and bad input.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reproduce
from kept_score import code_commit
from results import load_results, to_markdown
from vidgraph.training import loop
from vidgraph.training.checkpoint import load_checkpoint, run_lock
from vidgraph.weights import from_pretrained

RECIPE = """
name: tiny
shared:
  data: {syncmnist: {num_digits: 2, digits: embedded, classes: [0, 1, 2], no_sync_probability: 0.3,
                     val_clips: 16, test_clips: 40}}
  train: {clips: 64, batch_size: 16, lr: 1e-2, precision: fp32, device: cpu, workers: 0,
    threads: 1, tensorboard: false,
          val_every_clips: 32, checkpoint_every_clips: 16, log_every_clips: 32}
rows:
  graph_small: {source: vidgraph, published: 98.9,
                model: {name: rstg_small, head: {width: 8, num_stages: 3}}}
  mean_small: {source: vidgraph, model: {name: mean_lstm_small, head: {width: 8}}}
  mean: {source: vidgraph, published: 77, model: {name: mean_lstm, head: {width: 2}}}
"""


def run(folder: Path, *words: object) -> int:
    """The command, with everything it writes in `folder`."""
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE)
    places = ["--out", folder / "runs", "--results", folder / "tables" / "tiny.json"]
    return reproduce.main([str(recipe), *map(str, [*places, *words])])


def refusal(capsys: pytest.CaptureFixture[str], folder: Path, *words: object) -> str:
    capsys.readouterr()
    assert run(folder, *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def table(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "tables" / "tiny.json").read_text())
    return content


def score(folder: Path, run_folder: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "runs" / run_folder / "test.json").read_text())
    return content


def without_commands(content: dict[str, Any]) -> dict[str, Any]:
    """The commands name the recipe's file, which was copied."""
    rows = [
        {key: value for key, value in row.items() if key != "command"} for row in content["rows"]
    ]
    return {**content, "rows": rows}


def right(content: dict[str, Any]) -> np.ndarray:
    return np.array([letter == "1" for letter in content["correct"]])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both small rows, trained and scored in one go."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, "--size", "small") == 0
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_the_table_holds_what_was_measured(whole: Path) -> None:
    content = table(whole)
    assert (content["schema"], content["dataset"], content["split"]) == (1, "tiny", "test")
    graph, mean = content["rows"]
    assert [row["name"] for row in (graph, mean)] == [
        "graph_small",
        "mean_small",
    ]  # in the order of the recipe
    assert (graph["published"], mean["published"], graph["seeds"], graph["clips_seen"]) == (
        98.9,
        None,
        [0],
        64,
    )
    assert graph["command"] == f"python tools/reproduce.py {whole}/tiny.yaml --rows graph_small"
    assert [point[0] for point in graph["curve"]] == [32, 64]
    for row, kept in (
        (graph, score(whole, "tiny-graph_small")),
        (mean, score(whole, "tiny-mean_small")),
    ):
        assert len(kept["correct"]) == kept["scores"]["n"] == 40
        assert row["accuracy"] == kept["accuracy"] == pytest.approx(100 * right(kept).mean())
        assert row["ci95"] == kept["ci95"]
        assert content["test_labels"] == kept["labels"]
        assert content["hardware"] == kept["hardware"]
    model = from_pretrained(whole / "runs" / "tiny-mean_small")
    assert mean["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert mean["gmac"] == pytest.approx(0.1445, abs=0.001)  # nearly all in the stem


def test_neighbours_are_compared_clip_by_clip(whole: Path) -> None:
    graph, mean = (right(score(whole, name)) for name in ("tiny-graph_small", "tiny-mean_small"))
    assert (graph & ~mean).any() or (mean & ~graph).any()  # else nothing is compared here
    (pair,) = table(whole)["comparisons"]
    assert (pair["row"], pair["against"]) == ("graph_small", "mean_small")
    assert pair["difference"] == pytest.approx(100 * (graph.mean() - mean.mean()))
    assert pair["ci95"][0] <= pair["difference"] <= pair["ci95"][1]


def test_a_finished_row_is_neither_trained_nor_scored_again(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_args: object, **_options: object) -> None:
        raise AssertionError("the test split is scored once")

    monkeypatch.setattr(reproduce, "score_model", never)
    monkeypatch.setattr(loop._Trainer, "run", never)
    before = table(copy)
    (copy / "tables" / "tiny.json").unlink()
    assert run(copy, "--size", "small") == 0
    assert without_commands(table(copy)) == without_commands(before)
    assert to_markdown(load_results(copy / "tables" / "tiny.json")) in capsys.readouterr().out


def same_measures(folder: Path, expected: Path) -> None:
    for row, other in zip(table(folder)["rows"], table(expected)["rows"], strict=True):
        for key in ("name", "accuracy", "ci95", "curve", "clips_seen", "params"):
            assert row[key] == other[key], key


def test_killed_in_the_second_row_and_called_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, validate = [], loop.validate

    def dies(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:  # the second row's second validation
            raise MemoryError("as if killed")
        return validate(*args, **options)

    monkeypatch.setattr(loop, "validate", dies)
    with pytest.raises(MemoryError):
        run(tmp_path, "--size", "small")
    assert [row["name"] for row in table(tmp_path)["rows"]] == [
        "graph_small"
    ]  # what is done is in the table already
    assert load_checkpoint(tmp_path / "runs" / "tiny-mean_small")["progress"]["clips_seen"] == 48
    assert run(tmp_path, "--size", "small") == 0
    assert len(calls) == 5  # the second row went on from where it was
    same_measures(tmp_path, whole)


def test_stopped_by_a_signal_and_called_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    validate = loop.validate

    def asks_to_stop(*args: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "validate", asks_to_stop)
        assert run(tmp_path, "--size", "small") == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after 48 clips; saved." in capsys.readouterr().err
    assert not (tmp_path / "tables" / "tiny.json").exists()
    assert run(tmp_path, "--size", "small") == 0
    same_measures(tmp_path, whole)


def test_several_seeds_are_averaged(copy: Path) -> None:
    assert run(copy, "--rows", "graph_small,mean_small", "--seeds", "0,7") == 0
    runs = copy / "runs"
    assert {path.name for path in runs.iterdir()} == {
        f"tiny-{row}{seed}" for row in ("graph_small", "mean_small") for seed in ("", "-seed7")
    }
    content = table(copy)
    graph = content["rows"][0]
    kept = [score(copy, "tiny-graph_small"), score(copy, "tiny-graph_small-seed7")]
    assert graph["seeds"] == [0, 7]
    assert graph["accuracies"] == [each["accuracy"] for each in kept]
    assert graph["accuracy"] == pytest.approx(np.mean(graph["accuracies"]))
    assert graph["ci95"][0] <= graph["accuracy"] <= graph["ci95"][1]
    assert graph["command"].endswith("--rows graph_small --seeds 0,7")
    share = [
        np.mean([right(score(copy, f"tiny-{row}{seed}")) for seed in ("", "-seed7")])
        for row in ("graph_small", "mean_small")
    ]
    assert content["comparisons"][0]["difference"] == pytest.approx(100 * (share[0] - share[1]))


def test_other_rows_and_shipped_weights_stay_in_the_table(copy: Path) -> None:
    content = table(copy)
    content["rows"][0]["weights"] = "graph_small_tiny"
    (copy / "tables" / "tiny.json").write_text(json.dumps(content))
    assert run(copy, "--rows", "graph_small") == 0
    assert without_commands(table(copy)) == without_commands(
        content
    )  # the comparison with the row below too: neither was measured anew
    words = ["--rows", "mean", "--train.clips", "16", "--train.workers", "0"]
    assert run(copy, *words) == 0
    after = table(copy)
    assert [row["name"] for row in after["rows"]] == ["graph_small", "mean_small", "mean"]
    assert without_commands({"rows": after["rows"][:2]}) == without_commands(
        {"rows": content["rows"]}
    )
    assert after["rows"][2]["command"].endswith(
        "--rows mean --train.clips 16"
    )  # workers say nothing about the result


def test_bad_input_is_one_line_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*words: object) -> str:
        return refusal(capsys, tmp_path, *words)

    assert "has no row 'graph_smal'; did you mean 'graph_small'?" in error(
        "--rows", "mean_small,graph_smal"
    )
    assert "has no row ''; known: " in error("--rows", "")
    assert "has no such rows of size small" in error("--rows", "mean", "--size", "small")
    assert (
        "rows of several sizes; add --size small or --size paper, or name rows with --rows"
        in error()
    )
    assert "invalid choice: 'smal'" in error("--size", "smal")
    assert "takes its seeds from --seeds" in error("--size", "small", "--train.seed", "1")
    for seeds in ("0,x", "0,0", "", "-1"):
        assert "give different whole numbers with commas between them" in error(
            "--size", "small", f"--seeds={seeds}"
        )
    assert "train.seed: should be less than 4294967296" in error(
        "--size", "small", "--seeds", "0,99999999999999999999"
    )
    (tmp_path / "file").write_text("")
    assert "r.json: cannot be written" in error(
        "--size", "small", "--results", tmp_path / "file" / "r.json"
    )
    assert "train.lrr" in error("--size", "small", "--train.lrr", "1")
    assert "did you mean 'width'?" in error("--size", "small", "--model.head.wdth", "1")
    other = tmp_path / "other.json"
    other.write_text(
        '{"schema": 1, "dataset": "syncmnist5", "split": "test", "hardware": "h", "rows": []}'
    )
    assert "holds syncmnist5/test, not tiny/test" in error("--size", "small", "--results", other)
    assert not (tmp_path / "runs").exists()


def test_a_row_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(["syncmnist3:rstg_small"]) == 2
    assert "is one row, not a table" in capsys.readouterr().err


def test_the_commit_is_that_of_the_package() -> None:
    commit = code_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 12


def test_run_folders_that_cannot_be_used(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy / "runs" / "tiny-graph_small"
    with run_lock(folder):
        assert "is in use by another training" in refusal(capsys, copy, "--size", "small")
    assert "was trained with another recipe: train.lr is" in refusal(
        capsys, copy, "--size", "small", "--train.lr", "1"
    )
    kept = json.loads((folder / "test.json").read_text())
    (folder / "test.json").write_text(json.dumps(kept)[:-20])
    assert "test.json: is not a whole score file; delete it" in refusal(
        capsys, copy, "--size", "small"
    )
    (folder / "test.json").write_text(json.dumps({**kept, "weights": "0"}))
    assert "test.json: is the score of other weights than model.safetensors" in refusal(
        capsys, copy, "--size", "small"
    )
    (folder / "test.json").write_text(json.dumps({**kept, "labels": "0"}))
    assert "were scored on other test clips than graph_small; write to another file" in refusal(
        capsys, copy, "--size", "small"
    )
