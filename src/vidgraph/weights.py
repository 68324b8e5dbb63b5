"""Weights on disk: save, load, re-head for other classes, and refuse what could run code.

A saved model is a folder with two files: `model.safetensors` (tensors, no code) and `config.json`
(architecture, number of classes, options, class names, input spec, version). A run folder is one,
so are the shipped weights, so is a model on the hub.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vidgraph.errors import RunError, WeightsError, nearest
from vidgraph.models import build as catalogue
from vidgraph.records import InputSpec
from vidgraph.util import whole_file

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
_PICKLE_SUFFIXES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".pyth", ".tar"}
_PICKLE_STARTS = (
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
)  # torch's zip, and pickle protocols 2 to 5
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_REFUSAL = "is a pickle, which can run code when it is opened, so it is not read"
_SHOWN = 3


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor when weights met a model.

    Attributes:
        loaded: copied into the model.
        skipped_shape: in both, but of another shape or kind of number: name -> (in the file, in the
            model).
        missing: the model's, not in the file.
        unexpected: the file's, not in the model.
    """

    loaded: list[str]
    skipped_shape: dict[str, tuple[str, str]]
    missing: list[str]
    unexpected: list[str]

    @property
    def complete(self) -> bool:
        """True where every tensor of the file and of the model was used."""
        return not (self.skipped_shape or self.missing or self.unexpected)

    def to_text(self) -> str:
        """A table for people: one row per tensor that was not loaded."""
        rows = [f"  loaded      {len(self.loaded)} tensors"]
        rows += [
            f"  not loaded  {name}  {there} -> {here}: starts anew"
            for name, (there, here) in self.skipped_shape.items()
        ]
        rows += [f"  not loaded  {name}  not in the file: starts anew" for name in self.missing]
        rows += [f"  not used    {name}  not in the model" for name in self.unexpected]
        return "\n".join(rows)

    def _summary(self) -> str:
        groups = [
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            (
                "of another shape",
                [
                    f"{n} ({there}, the model has {here})"
                    for n, (there, here) in self.skipped_shape.items()
                ],
            ),
        ]
        return "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in groups if names)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def save_weights(model: nn.Module, folder: str | Path) -> None:
    """Writes `model.safetensors` and `config.json` into `folder`, both or neither.

    Args:
        model: made by `create_model` or `from_pretrained` (compiled by torch or not).
        folder: made if absent.

    Raises:
        WeightsError: the model was not made by `create_model`, or holds a kind of number that
            safetensors has no name for.
        RunError: the folder cannot be written or the disk is full; older files there are intact.
    """
    model = cast(
        nn.Module, getattr(model, "_orig_mod", model)
    )  # torch.compile wraps the model and prefixes every name
    config = json.dumps(_config_of(model), indent=2) + "\n"
    tensors = {name: _own_copy(name, tensor) for name, tensor in model.state_dict().items()}
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written ({error.strerror or error}); give another folder"
        ) from error
    with (
        whole_file(Path(folder) / WEIGHTS_FILE) as weights_file,
        whole_file(Path(folder) / CONFIG_FILE) as config_file,
    ):
        with open(weights_file, "wb") as file:
            file.write(safetensors.torch.save(tensors))
            file.flush()
            os.fsync(
                file.fileno()
            )  # the weights must be safe on disk before either file takes its place
        config_file.write_text(config, encoding="utf-8")


def _own_copy(name: str, tensor: Tensor) -> Tensor:
    """A plain tensor of its own: safetensors refuses tied tensors, so each name gets its copy, and
    loading ties them again.
    """
    if tensor.dtype == torch.complex128 or tensor.is_sparse or tensor.is_quantized:
        raise WeightsError(
            f"tensor {name!r}: {tensor.dtype} {tensor.layout} cannot be saved as safetensors; "
            "keep it dense, complex64 or real"
        )
    return tensor.detach().to("cpu", copy=True).contiguous()


def _config_of(model: nn.Module) -> dict[str, Any]:
    architecture, spec = getattr(model, "architecture", None), getattr(model, "input_spec", None)
    if not isinstance(architecture, str) or not isinstance(spec, InputSpec):
        raise WeightsError(
            f"a {type(model).__name__} has no architecture name to be rebuilt from; make models "
            "with vidgraph.create_model"
        )
    # Imported here: the package's own module imports this one on demand.
    from vidgraph import __version__

    class_names = getattr(model, "class_names", None)
    num_classes = getattr(getattr(model, "classifier", None), "out_features", None)
    if num_classes is None:
        raise WeightsError(
            f"{architecture}: its last layer, `classifier`, does not say its number of classes "
            "(`out_features`)"
        )
    if class_names is not None and len(class_names) != num_classes:
        raise WeightsError(
            f"{architecture}: {len(class_names)} class names for {num_classes} classes; set "
            "model.class_names to one name per class"
        )
    return {
        "architecture": architecture,
        "num_classes": num_classes,
        "options": dict(getattr(model, "options", {})),
        "class_names": None if class_names is None else list(class_names),
        "input_spec": spec.to_dict(),
        **({"multi_label": True} if getattr(model, "multi_label", False) else {}),
        "version": __version__,
    }


def list_shipped() -> list[str]:
    """Names of the weights inside the package, sorted."""
    root = resources.files("vidgraph") / "shipped"
    return (
        sorted(entry.name for entry in root.iterdir() if (entry / WEIGHTS_FILE).is_file())
        if root.is_dir()
        else []
    )


def shipped_folder(name: str) -> Path:
    """The folder of shipped weights, with their `card.md`."""
    return Path(str(resources.files("vidgraph") / "shipped" / name))


def from_pretrained(
    name: str | Path,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    *,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """A model with its weights, in evaluation mode.

    Args:
        name: shipped weights (`list_shipped()`), a run folder, a `.safetensors` file with its
            `config.json` beside it, or a model on the hub, `owner/repository`.
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
    wanted = _wanted_classes(num_classes, class_names)
    weights_file = _locate(name)
    config = _read_config(weights_file.with_name(CONFIG_FILE))
    state = read_state(weights_file)
    names, known = config["class_names"], config["num_classes"]
    other_classes = wanted not in (None, known) or (
        class_names is not None and names is not None and list(class_names) != names
    )
    head = _classifier_tensors(config) if other_classes else frozenset()
    if class_names is not None or other_classes:
        names = None if class_names is None else list(class_names)
    model = _build(config, wanted if wanted is not None else known, names)
    report = _copy_matching(model, {key: value for key, value in state.items() if key not in head})
    faults = LoadReport(
        [],
        report.skipped_shape,
        [key for key in report.missing if key not in head],
        report.unexpected,
    )
    if not faults.complete:
        raise WeightsError(
            f"{weights_file}: not the weights of {config['architecture']!r}: {faults._summary()}; "
            "load the file that belongs to it"
        )
    model.multi_label = bool(config.get("multi_label", False)) and not other_classes  # type: ignore[assignment]
    if other_classes:
        _tell(
            name, known, wanted, LoadReport(report.loaded, _head_shapes(model, state, head), [], [])
        )
    return model.to(device).eval()


def _wanted_classes(num_classes: int | None, class_names: Sequence[str] | None) -> int | None:
    if class_names is not None and num_classes is not None and len(class_names) != num_classes:
        raise WeightsError(
            f"num_classes is {num_classes} but class_names has {len(class_names)} names; give one "
            "of the two"
        )
    wanted = num_classes if class_names is None else len(class_names)
    if wanted is not None and wanted < 1:
        raise WeightsError(f"a model needs at least one class; got {wanted}")
    return wanted


def _tell(name: str | Path, known: int, wanted: int | None, report: LoadReport) -> None:
    change = (
        f"{known} classes in the weights, {wanted} wanted"
        if known != wanted
        else f"{known} classes with other names"
    )
    print(f"{name}: {change}; the classifier starts anew\n{report.to_text()}", file=sys.stderr)


def _head_shapes(
    model: nn.Module, state: Mapping[str, Tensor], head: frozenset[str]
) -> dict[str, tuple[str, str]]:
    here = model.state_dict()
    return {
        key: (_kind(state[key]) if key in state else "absent", _kind(here[key]))
        for key in sorted(head)
    }


def _classifier_tensors(config: Mapping[str, Any]) -> frozenset[str]:
    """Names of the tensors whose shape depends on the number of classes: found by building the
    model twice.
    """
    with torch.random.fork_rng(devices=[]):
        shapes = [
            {
                k: v.shape
                for k, v in _build(config, config["num_classes"] + more, None).state_dict().items()
            }
            for more in (0, 1)
        ]
    return frozenset(key for key, shape in shapes[0].items() if shapes[1][key] != shape)


def _build(config: Mapping[str, Any], num_classes: int, class_names: list[str] | None) -> nn.Module:
    architecture = config["architecture"]
    known = catalogue.list_architectures()
    if architecture not in known:
        raise WeightsError(
            f"{config['file']}: architecture {architecture!r} is not one of "
            f"vidgraph's{nearest(architecture, known)}"
        )
    try:
        model = catalogue.create_model(
            architecture, num_classes=num_classes, class_names=class_names, **config["options"]
        )
    except (TypeError, ValueError) as error:
        written = f"written by vidgraph {config.get('version', 'of unknown version')}"
        raise WeightsError(
            f"{config['file']} ({written}): {architecture!r} cannot be built from it: {error}"
        ) from error
    if config.get("input_spec") is not None:
        model.input_spec = config["input_spec"]
    return model


def load_matching(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Copies the tensors that fit by name and shape into `model`; the rest of the model stays as it
    is.

    Raises:
        WeightsError: not one tensor fits, so nothing would have been loaded; or a first convolution
            of images stands where the model has one of optical flow, which would start anew under
            trained layers.
    """
    _check_channels(model, state)
    report = _copy_matching(model, state)
    if not report.loaded:
        raise WeightsError(
            f"no tensor of these weights fits a {type(model).__name__}: {report._summary()}; give "
            "weights of the same stem"
        )
    return report


def _check_channels(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    for name, here in model.state_dict().items():
        there = state.get(name)
        if (
            there is None
            or there.dim() != 4
            or here.dim() != 4
            or there.shape[1] != 3
            or here.shape[1] % 2
        ):
            continue
        if (there.shape[0], *there.shape[2:]) == (here.shape[0], *here.shape[2:]):
            raise WeightsError(
                f"tensor {name!r}: 3 channels of images in the weights where the model takes "
                f"{here.shape[1]} of flow; "
                "convert the weights of the image network for this architecture (vidgraph "
                "convert), which averages over them"
            )


def _copy_matching(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    own = model.state_dict()
    fits = {
        key: value for key, value in state.items() if key in own and _kind(value) == _kind(own[key])
    }
    misfits = {
        key: (_kind(state[key]), _kind(own[key])) for key in own if key in state and key not in fits
    }
    model.load_state_dict(fits, strict=False)
    missing = [key for key in own if key not in state]
    return LoadReport(list(fits), misfits, missing, [key for key in state if key not in own])


def _kind(tensor: Tensor) -> str:
    """Shape and kind of number: bf16 goes into float32, but complex never into real, nor floats
    into counters.
    """
    kind = (
        " complex"
        if tensor.is_complex()
        else ""
        if tensor.is_floating_point()
        else f" {str(tensor.dtype).removeprefix('torch.')}"
    )
    return f"{list(tensor.shape)}{kind}"


def read_state(name: str | Path) -> dict[str, Tensor]:
    """The tensors of any weights that `from_pretrained` takes, by name.

    Raises:
        WeightsError: no such weights, truncated, or in a format that could run code.
    """
    file = _locate(name)
    try:
        return safetensors.torch.load_file(file)
    except SafetensorError as error:
        with open(file, "rb") as opened:
            start = opened.read(4)
        if start.startswith(_PICKLE_STARTS):
            raise WeightsError(
                f"{file} {_REFUSAL}, whatever its name says; get the weights as safetensors"
            ) from error
        size = file.stat().st_size
        raise WeightsError(
            f"{file}: truncated or no safetensors file ({size:,} bytes: {error}); copy or "
            "download it again"
        ) from error
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror or error})") from error


def _read_config(file: Path) -> dict[str, Any]:
    """`config.json`, checked: it was written by another run, another version or by hand."""
    if not file.is_file():
        raise WeightsError(
            f"{file.parent}: has weights but no {CONFIG_FILE}, so the model cannot be rebuilt; "
            "copy it from where the weights are from"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{file}: is not readable JSON ({error}); copy it again from where the weights are from"
        ) from error
    types = {
        "architecture": str,
        "num_classes": int,
        "options": dict,
        "class_names": list | None,
        "input_spec": dict,
    }
    for key, kind in types.items():
        if not isinstance(config, dict) or key not in config or not isinstance(config[key], kind):
            raise WeightsError(
                f"{file}: {key!r} is missing or not usable; this is no {CONFIG_FILE} that "
                "vidgraph wrote"
            )
    if config["num_classes"] < 1:
        raise WeightsError(
            f"{file}: 'num_classes' is {config['num_classes']}; a model needs at least one class"
        )
    if config["class_names"] is not None and len(config["class_names"]) != config["num_classes"]:
        raise WeightsError(
            f"{file}: {len(config['class_names'])} class_names for {config['num_classes']} "
            "num_classes; correct one of them"
        )
    try:
        return {**config, "input_spec": InputSpec(**config["input_spec"]), "file": file}
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{file}: 'input_spec' is not usable: {error}") from error


def _locate(name: str | Path) -> Path:
    """The `model.safetensors` that `name` stands for: shipped, a file, a folder, or fetched from
    the hub.
    """
    if str(name) in list_shipped():
        return shipped_folder(str(name)) / WEIGHTS_FILE
    path = Path(name)
    if path.suffix.lower() in _PICKLE_SUFFIXES and not path.is_dir():
        raise WeightsError(
            f"{path} {_REFUSAL}; give the run folder with its {WEIGHTS_FILE}, or get the weights "
            "as safetensors"
        )
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise WeightsError(f"{path}: is neither a run folder nor a .safetensors file")
        return path
    if _HUB_ID.fullmatch(str(name)) and not path.is_absolute():
        return _from_hub(str(name))
    place = (
        f"{name}: no such folder"
        if path.suffix == ".safetensors" or len(path.parts) > 1
        else f"no weights are called {str(name)!r}"
    )
    raise WeightsError(
        f"{place}{nearest(str(name), list_shipped())}; give a shipped name, a run folder, or "
        "owner/repository on the hub"
    )


def _in_folder(folder: Path) -> Path:
    file = folder / WEIGHTS_FILE
    if file.is_file():
        return file
    pickles = sorted(
        entry.name for entry in folder.iterdir() if entry.suffix.lower() in _PICKLE_SUFFIXES
    )
    hint = f"; {pickles[0]} {_REFUSAL}" if pickles else ""
    raise WeightsError(
        f"{folder}: is not a run folder: it has no {WEIGHTS_FILE}{hint}; give a folder that "
        "training or save_weights wrote"
    )


def _from_hub(hub_id: str) -> Path:
    """Downloads the two files of a saved model, and nothing else, into the hub's cache; without a
    network the cache is used.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    reachable = _resolves(constants.ENDPOINT)
    try:
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            path = huggingface_hub.hf_hub_download(hub_id, file, local_files_only=not reachable)
    except errors.LocalEntryNotFoundError as error:
        raise WeightsError(
            f"{hub_id}: no such folder here, and the hub cannot be reached; check the path or the "
            "network"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise WeightsError(
            f"{hub_id}: no such folder here, and no such (public) model on the hub; check the "
            "spelling"
        ) from error
    except errors.EntryNotFoundError as error:
        raise WeightsError(
            f"{hub_id}: the model on the hub has no {file}, so it was not saved by vidgraph; "
            "choose another"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise WeightsError(
            f"{hub_id}: cannot be fetched from the hub ({error}); try again, or download it and "
            "give the folder"
        ) from error
    return Path(path)


def _resolves(endpoint: str) -> bool:
    """False where the hub's name has no address: asking it would then only retry for half a minute.
    Behind a proxy it is asked.
    """
    address = urlsplit(endpoint)
    if urllib.request.getproxies().get(address.scheme):
        return True
    try:
        socket.getaddrinfo(address.hostname, address.port or 443)
    except OSError:
        return False
    return True
