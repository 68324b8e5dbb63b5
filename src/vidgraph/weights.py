"""Weights on disk: save, load, fit to other classes, and refuse what could run code.

A saved model is `model.safetensors`: tensors and, in its header, the configuration that rebuilds
the model. The header decides; `config.json` beside it is a copy for people. A run folder holds
both, so do shipped weights and a model on the hub. Files of version 0.1 have no such header: there
`config.json` decides, and `models/compat.py` says what its words are today.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidgraph.errors import RecipeError, WeightsError, nearest
from vidgraph.models.base import VideoModel
from vidgraph.models.build import NetworkOptions, build_model, list_models, resolve_options
from vidgraph.models.catalogue import Listed, in_words
from vidgraph.models.compat import upgrade_config, upgrade_tensor
from vidgraph.models.matching import LoadReport, copy_matching, kind_of
from vidgraph.records import Positive, options, validated
from vidgraph.util import atomic_write, hub_file, write_json

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
SHIPPED = Path(__file__).parent / "shipped"  # a folder for each, with its `card.md`
# The recipe row that each was trained by, which names its test data.
TRAINED_BY = {
    "digit_stem": "digits:stem",
    "mean_lstm_small_sync3": "syncmnist3:mean_lstm_small",
    "rstg_small_sync3": "syncmnist3:rstg_small",
    "rstg_small_sync5": "syncmnist5:rstg_small",
}
_HEADER_KEY = "vidgraph"
_PICKLE_SUFFIXES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".pyth", ".tar"}
# Torch's zip, and pickle protocols 2 to 5.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_REFUSAL = "is a pickle, which can run code when it is opened, so it is not read"


@options
class Config:
    """What rebuilds a model."""

    name: str  # that it was created by
    options: NetworkOptions  # of every part, complete
    num_classes: Positive
    class_names: list[str] | None = None
    multi_label: bool = False
    version: str = "unknown"  # of vidgraph that wrote it
    upgraded_from: str | None = None  # architecture of 0.1, whose names of tensors the file has

    def __post_init__(self) -> None:
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise RecipeError(f"{len(self.class_names)} class_names for {self.num_classes} classes")


def save_weights(model: VideoModel, folder: str | Path) -> None:
    """Writes `model.safetensors`, whole or not at all, and then its readable `config.json`.

    Args:
        model: made by `create_model` or `from_pretrained`.
        folder: made if absent.

    Raises:
        WeightsError: the model cannot be rebuilt from its options.
        RunError: the folder cannot be written or the disk is full; older files there are intact.
    """
    # Imported here: the package's own module imports this one on demand.
    from vidgraph import __version__

    if model.options is None:
        raise WeightsError("a model without options cannot be rebuilt; use vidgraph.create_model")
    known = (model.name, model.options, model.num_classes, model.class_names, model.multi_label)
    try:
        config = asdict(Config(*known, version=__version__))
    except RecipeError as error:
        raise WeightsError(f"{model.name}: {error}; correct model.class_names") from error
    del config["upgraded_from"]
    # Safetensors refuses tied tensors, so each name gets its copy, and loading ties them again.
    state = model.state_dict()
    tensors = {key: x.detach().to("cpu", copy=True).contiguous() for key, x in state.items()}
    content = safetensors.torch.save(tensors, metadata={_HEADER_KEY: json.dumps(config)})
    with atomic_write(Path(folder) / WEIGHTS_FILE) as file:
        file.write_bytes(content)
    write_json(Path(folder) / CONFIG_FILE, config)


def list_shipped() -> list[str]:
    """Names of the weights inside the package, sorted."""
    return sorted(file.parent.name for file in SHIPPED.glob(f"*/{WEIGHTS_FILE}"))


def describe_shipped() -> list[Listed]:
    """The weights inside the package, which has one license."""
    rows = []
    for name in list_shipped():
        file = SHIPPED / name / WEIGHTS_FILE
        options = load_config(file).options
        rows.append(Listed(name, in_words(options.input), file.stat().st_size / 1e6, "apache-2.0"))
    return rows


def from_pretrained(
    name: str | Path,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    *,
    device: str | torch.device = "cpu",
) -> VideoModel:
    """A model with its weights, in evaluation mode.

    Args:
        name: shipped weights (`list_shipped()`), a run folder, a `.safetensors` file, or a model on
            the hub, `owner/repository`.
        num_classes: of your task. Another number than the weights have replaces the classifier,
            which starts anew; all else is loaded, and a table of what was and was not goes to
            standard error.
        class_names: of your task, in the order of its labels. Other names than the weights have
            replace the classifier too.
        device: where the model goes.

    Raises:
        WeightsError: no such weights, or they are truncated, of another model, or in a format that
            could run code.
    """
    file = _locate(name)
    config, state = load_config(file), load_state(file)
    other, classes, names = _task(config, num_classes, class_names)
    model = _build(file, config, classes, config.multi_label and not other)
    model.class_names = names
    if config.upgraded_from is not None:  # 0.1 did not save what clips are normalized by
        state |= {k: v for k, v in model.state_dict().items() if "normalize." in k}
    head = _classifier_tensors(config) if other else frozenset[str]()
    report = copy_matching(model, {key: value for key, value in state.items() if key not in head})
    missing = [key for key in report.missing if key not in head]
    faults = LoadReport([], report.skipped_shape, missing, report.unexpected)
    if not faults.complete:
        what = f"not the weights of {config.name!r}: {faults.summary()}"
        raise WeightsError(f"{file}: {what}; load the file that belongs to it")
    if other:
        here = model.state_dict()
        there = {key: kind_of(state[key]) if key in state else "absent" for key in sorted(head)}
        anew = {key: (kind, kind_of(here[key])) for key, kind in there.items()}
        table = LoadReport(report.loaded, anew, [], []).to_text()
        change = f"{config.num_classes} classes in the weights, {classes} wanted"
        if classes == config.num_classes:
            change = f"{classes} classes with other names"
        print(f"{name}: {change}; the classifier starts anew\n{table}", file=sys.stderr)
    return model.to(device).eval()


def _task(
    config: Config, num_classes: int | None, class_names: Sequence[str] | None
) -> tuple[bool, int, list[str] | None]:
    """Whether a task has other classes than the weights, how many it has, and their names."""
    wanted = num_classes if class_names is None else len(class_names)
    if num_classes not in (None, wanted):
        what = f"num_classes is {num_classes} but class_names has {wanted} names"
        raise WeightsError(f"{what}; give one of the two")
    if wanted is not None and wanted < 1:
        raise WeightsError(f"a model needs at least one class; got {wanted}")
    given, known = None if class_names is None else list(class_names), config.class_names
    renamed = given is not None and known is not None and given != known
    other = renamed or wanted not in (None, config.num_classes)
    return other, wanted or config.num_classes, given or (None if other else known)


def _build(file: Path, config: Config, num_classes: int, multi_label: bool) -> VideoModel:
    try:
        model = build_model(config.options, num_classes, multi_label)
    except (TypeError, ValueError) as error:
        what = f"{config.name!r} cannot be built from it: {error}"
        raise WeightsError(f"{file} (written by vidgraph {config.version}): {what}") from error
    model.name = config.name
    return model


def _classifier_tensors(config: Config) -> frozenset[str]:
    """Names of the tensors whose shape depends on the number of classes."""
    counts = config.num_classes, config.num_classes + 1
    with torch.device("meta"):
        one, other = (build_model(config.options, count).state_dict() for count in counts)
    return frozenset(key for key in one if one[key].shape != other[key].shape)


def load_state(name: str | Path) -> dict[str, Tensor]:
    """The tensors of any weights that `from_pretrained` takes, by today's names.

    Raises:
        WeightsError: no such weights, truncated, or in a format that could run code.
    """
    file = _locate(name)
    architecture = load_config(file).upgraded_from
    state = safetensors.torch.load_file(file)
    if architecture is not None:
        state = {upgrade_tensor(key, architecture): value for key, value in state.items()}
    return state


def load_config(file: Path) -> Config:
    """What rebuilds a model: from the file's header, or, of 0.1, the `config.json` beside it."""
    header = _header(file).get(_HEADER_KEY)
    source = file if header is not None else file.with_name(CONFIG_FILE)
    try:
        content = json.loads(source.read_text(encoding="utf-8") if header is None else header)
        if isinstance(content, dict) and "architecture" in content:
            content = upgrade_config(content, str(source))
            given = content["name"], content["options"]
            content["options"] = asdict(resolve_options(*given, str(source), "options."))
        config: Config = validated(Config, content, str(source))
    except FileNotFoundError as error:
        what = f"has weights but no {CONFIG_FILE}, so the model cannot be rebuilt"
        how = "copy it from where the weights are from"
        raise WeightsError(f"{file.parent}: {what}; {how}") from error
    except RecipeError as error:
        raise WeightsError(str(error)) from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{source}: is not readable JSON ({error}); copy it again") from error
    if config.name not in (known := list_models()):
        hint = nearest(config.name, known)
        raise WeightsError(f"{source}: there is no model {config.name!r}{hint}")
    return config


def _header(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    try:
        with safe_open(file, "pt") as opened:
            return opened.metadata() or {}
    except SafetensorError as error:
        with open(file, "rb") as raw:
            start = raw.read(4)
        if start.startswith(_PICKLE_STARTS):
            what = f"{_REFUSAL}, whatever its name says; get the weights as safetensors"
            raise WeightsError(f"{file} {what}") from error
        what = f"truncated or no safetensors file ({file.stat().st_size:,} bytes: {error})"
        raise WeightsError(f"{file}: {what}; copy or download it again") from error
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror or error})") from error


def _locate(name: str | Path) -> Path:
    """The `model.safetensors` of a name: shipped, a file, a folder, or from the hub."""
    path = Path(name)
    if str(name) in list_shipped():
        return SHIPPED / name / WEIGHTS_FILE
    if path.is_dir():
        return _in_folder(path)
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        how = f"give the run folder with its {WEIGHTS_FILE}, or get the weights as safetensors"
        raise WeightsError(f"{path} {_REFUSAL}; {how}")
    if path.is_file():
        if path.suffix != ".safetensors":
            raise WeightsError(f"{path}: is neither a run folder nor a .safetensors file")
        return path
    # `runs/mine` is a folder that is not there, and not the model `mine` of an owner `runs`.
    if _HUB_ID.fullmatch(str(name)) and path.parts[0] != "runs" and not path.parent.exists():
        return _from_hub(str(name))
    is_path = path.suffix == ".safetensors" or len(path.parts) > 1
    problem = "no such folder" if is_path else "no weights are called that"
    problem += nearest(str(name), list_shipped())
    how = "give a shipped name, a run folder, or owner/repository on the hub"
    raise WeightsError(f"{name}: {problem}; {how}")


def _in_folder(folder: Path) -> Path:
    if (folder / WEIGHTS_FILE).is_file():
        return folder / WEIGHTS_FILE
    pickles = [entry.name for entry in folder.iterdir() if entry.suffix.lower() in _PICKLE_SUFFIXES]
    what = f"it has no {WEIGHTS_FILE}" + (f"; {min(pickles)} {_REFUSAL}" if pickles else "")
    how = "give a folder that training or save_weights wrote"
    raise WeightsError(f"{folder}: is not a run folder: {what}; {how}")


def _from_hub(hub_id: str) -> Path:
    """Downloads a saved model's two files into the hub's cache; offline the cache is used."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        path = hub_file(hub_id, name)
        if path is None:
            raise WeightsError(
                f"{hub_id}: the model on the hub has no {name}, so it was not saved by vidgraph; "
                "choose another"
            )
    assert path is not None
    return path
