"""Every other verb through the command: what it prints, its plain values, and its exit code."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_of, json_of

import vidgraph
from vidgraph.cli import build_parser, main, split_overrides
from vidgraph.data.syncmnist import pair_names
from vidgraph.weights import save_weights


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of synchronous digits, made by the command itself."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    words = (
        f"data make syncmnist --out {folder} --digits embedded --num-digits 3 --classes 1 2 3 "
        "--train 12 --val 4 --test 6"
    )
    assert main(words.split()) == 0
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh weights of the small graph for those digits."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_weights(
        vidgraph.create_model("rstg_small", class_names=pair_names([1, 2, 3]), width=16), folder
    )
    return folder


def test_the_real_process_and_its_quick_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vidgraph.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert all(
        verb in done.stdout
        for verb in (
            "doctor",
            "models",
            "demo",
            "data",
            "extract",
            "train",
            "eval",
            "predict",
            "profile",
            "convert",
        )
    )
    heavy = ("lightning_fabric", "pandas", "av", "matplotlib", "torchvision")
    code = (
        "import sys, vidgraph.cli; vidgraph.cli.build_parser(); print([name for name in "
        f"{heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "verb",
    [
        "doctor",
        "models",
        "demo",
        "data",
        "data check",
        "data make",
        "data make something",
        "extract",
        "extract proposals",
        "extract boxes",
        "train",
        "eval",
        "predict",
        "profile",
        "convert",
    ],
)
def test_every_verb_explains_itself_with_an_example(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args([*verb.split(), "--help"])
    assert caught.value.code == 0
    assert "example: vidgraph " + verb.split()[0] in capsys.readouterr().out


def test_models_lists_two_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    first, second = out.split("shipped weights")
    assert "  rstg_small\n" in first
    assert all(f"  {name}\n" in second for name in vidgraph.list_models(pretrained=True))


def test_data_make_and_check(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(list(digits.rglob("*.mp4"))) == 22
    skip = digits.parent / "skip.txt"
    words = ["data", "check", str(digits / "table.csv"), "--skip-list", str(skip)]
    code = main(words)
    out = capsys.readouterr().out
    assert "rows 22 (train 12, val 4, test 6), files 22" in out
    assert code == (0 if "no faults found" in out else 1)
    broken = digits / "test" / "000001.mp4"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    assert main(words) == 1
    assert "test/000001.mp4" in skip.read_text()
    broken.write_bytes(whole)


def test_eval_gives_the_decreed_values(
    digits: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json_of(capsys, "eval", model, "--data", digits / "table.csv")
    assert set(result) == {"top1", "top5", "mean_class", "map", "n", "skipped", "ci95", "per_class"}
    assert (result["n"], result["skipped"], len(result["per_class"])) == (6, 0, 4)
    (digits.parent / "skip1.txt").write_text("test/000001.mp4\n")
    skipped = json_of(
        capsys,
        "eval",
        model,
        "--data",
        digits / "table.csv",
        "--data.table.skip_list",
        digits.parent / "skip1.txt",
    )
    assert (skipped["n"], skipped["skipped"]) == (5, 1)
    assert main(["eval", str(model), "--data", str(digits / "table.csv"), "--split", "val"]) == 0
    assert "(val): 4 scored, 0 skipped" in capsys.readouterr().out


def test_eval_on_generated_digits(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = [
        "--data",
        "syncmnist3",
        "--data.syncmnist.digits",
        "embedded",
        "--data.syncmnist.test_clips",
        "40",
    ]
    result = json_of(capsys, "eval", model, *data, "--data.syncmnist.classes", "[1,2,3]")
    assert (result["n"], result["skipped"]) == (40, 0)
    assert "the model's 4 classes are not the 46 of 3 synchronous digits" in error_of(
        capsys, "eval", model, *data
    )
    assert "no split 'tset'; did you mean 'test'?" in error_of(
        capsys, "eval", model, *data, "--split", "tset"
    )
    assert "only --data. options" in error_of(capsys, "eval", model, *data, "--train.lr", 1)
    assert "add --data RECIPE" in error_of(capsys, "eval", model)
    assert "no weights are called 'gone'" in error_of(capsys, "eval", "gone")


def test_what_is_read_is_never_overwritten(
    model: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(digits, tmp_path / "digits")
    clip, table = next(folder.rglob("*.mp4")), folder / "table.csv"
    before = clip.read_bytes(), table.read_bytes()
    overwritten = "is read here, and would be overwritten; name another file to write"
    assert f"{clip}: {overwritten}" in error_of(capsys, "predict", model, clip, "--save", clip)
    assert f"{table}: {overwritten}" in error_of(
        capsys, "data", "check", table, "--skip-list", table
    )
    assert (clip.read_bytes(), table.read_bytes()) == before
    assert ".: cannot be written, it is a folder; name a file to write" in error_of(
        capsys, "data", "check", table, "--skip-list", "."
    )
    (tmp_path / "file").write_text("")
    scores = ["eval", model, "--data", table, "--scores", tmp_path / "file" / "s.npz"]
    assert "s.npz: cannot be written, " in error_of(capsys, *scores)
    run = shutil.copytree(model, tmp_path / "run")
    (run / "recipe.yaml").write_text("name: a\n")
    assert f"{run}: holds a training, whose weights would be overwritten" in error_of(
        capsys, "convert", clip, "--out", run
    )
    assert "'-1' is not a whole number from 0" in error_of(
        capsys, "data", "make", "syncmnist", "--out", tmp_path / "new", "--train", -1
    )


def test_predict_one_video_and_draw_it(
    digits: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = digits / "test" / "000000.mp4"
    for target in (tmp_path / "overlay.mp4", tmp_path / "report.html"):
        assert main(["predict", str(model), str(video), "--save", str(target), "--top", "2"]) == 0
        assert target.stat().st_size > 1000
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(video)
    assert sum("%" in line for line in lines) == 4
    assert lines[3] == "  frames used: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    (record,) = json_of(capsys, "predict", model, video)
    assert sum(entry["probability"] for entry in record["top"]) == pytest.approx(1, abs=1e-5)


def test_predict_many_videos_goes_on_after_a_bad_one(
    digits: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mp4").write_text("text")
    records = json_of(capsys, "predict", model, tmp_path / "bad.mp4", digits / "test", code=1)
    assert [("error" in record) for record in records] == [True] + [False] * 6
    assert "bad.mp4: " in error_of(capsys, "predict", model, tmp_path / "bad.mp4")
    assert "absent.mp4: " in error_of(capsys, "predict", model, "absent.mp4")
    assert "--save draws one video, and 6 were given" in error_of(
        capsys, "predict", model, digits / "test", "--save", tmp_path / "x.mp4"
    )


def test_profile(capsys: pytest.CaptureFixture[str]) -> None:
    result = json_of(capsys, "profile", "rstg_syncmnist")
    assert result["params"] == 10_565_168
    assert set(result) == {"params", "gmac", "parts", "output_shapes"}
    narrow = json_of(capsys, "profile", "rstg_small", "--model.options.width", 16)
    assert narrow["params"] < json_of(capsys, "profile", "rstg_small")["params"]
    assert "has no option 'wdth'" in error_of(
        capsys, "profile", "rstg_small", "--model.options.wdth", 16
    )


def test_convert_the_authors_variables(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = shared_data / "golden" / "rstg" / "full_simpleconv_syncmnist_small.npz"
    assert (
        main(
            ["convert", str(golden), "--model.options.width", "32", "--out", str(tmp_path / "out")]
        )
        == 0
    )
    converted = vidgraph.from_pretrained(tmp_path / "out")
    with np.load(golden) as arrays:
        np.testing.assert_array_equal(
            converted.classifier.weight.detach().numpy(),
            arrays["var:pred/kernel:0"].reshape(32, 46).T,
        )
    (tmp_path / "text.npz").write_text("text")
    assert "not a whole .npz file" in error_of(
        capsys, "convert", tmp_path / "text.npz", "--out", tmp_path / "x"
    )
    assert "there is no such file" in error_of(
        capsys, "convert", tmp_path / "absent.npz", "--out", tmp_path / "x"
    )
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    assert "not a whole .npz file" in error_of(
        capsys, "convert", tmp_path / "pickled.npz", "--out", tmp_path / "x"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian x", "verb 'trian' does not exist; did you mean 'train'?"),
        ("predict m v --views 0", "argument --views: '0' is not a whole number above 0"),
        ("eval m --device tpu", "--device 'tpu' does not exist"),
        (
            "data check x --min-frame 3",
            "unknown argument --min-frame; did you mean '--min-frames'?",
        ),
        ("models --train.lr 3", "unknown argument --train.lr (see vidgraph models --help)"),
        ("data check nowhere.csv", "nowhere.csv: there is no such file"),
        (
            "data check x.csv --columns lable=class",
            "'lable' is not a column of ours; did you mean 'label'?",
        ),
        ("eval nowhere --data syncmnist3", "nowhere"),
        (
            "eval rstg_small_sync3 --data ../nowhere/",
            "../nowhere/: there is no such recipe, file or folder",
        ),
        ("train runs/none --resume", "runs/none: there is no such recipe, file or folder"),
        (
            "profile rstg_smal",
            "no architecture and no weights are called 'rstg_smal'; did you mean 'rstg_small'?",
        ),
        ("demo --out nowhere --train.lrr 1", "unknown key train.lrr; did you mean 'lr'?"),
        (
            "extract boxes a.csv b.json --out nowhere",
            "a.csv b.json: .csv and .json files go into different stores; name one kind",
        ),
    ],
)
def test_bad_input_is_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_of(capsys, *words.split())


def test_no_words_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: vidgraph" in capsys.readouterr().out


def test_a_reader_that_leaves_early_makes_no_noise() -> None:
    code = "import sys; from vidgraph.cli import main; sys.exit(main(['models']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_overrides_are_told_from_arguments() -> None:
    words = [
        "train",
        "--train.lr",
        "1e-3",
        "x:y",
        "--out",
        "runs/a.b",
        "--model.options.w=3",
        "--resume",
        "--train.nesterov",
    ]
    own, overrides = split_overrides(words)
    assert own == ["train", "x:y", "--out", "runs/a.b", "--resume"]
    assert overrides == ["--train.lr", "1e-3", "--model.options.w=3", "--train.nesterov"]
