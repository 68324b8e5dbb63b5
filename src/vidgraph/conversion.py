"""What `vidgraph convert` does: a checkpoint of another codebase in, a folder of weights out.

No code of the checkpoint can run: numpy archives are read without objects, torch files as plain
tensors, other pickles as plain arrays.
"""

from __future__ import annotations

import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vidgraph.backbones.bn_inception import BNInception
from vidgraph.backbones.cross_modality import bare_name, image_weights, is_head
from vidgraph.backbones.inflate import inflate_resnet, our_name
from vidgraph.backbones.resnet3d import ResNet3D
from vidgraph.backbones.torchvision2d import TorchvisionBackbone
from vidgraph.convert import convert_rstg_tensorflow
from vidgraph.convert_i3d import Codebase, convert_i3d, head_classes, recognise
from vidgraph.errors import WeightsError
from vidgraph.models.build import create_model, options_of
from vidgraph.util import unpickle_arrays, write_json
from vidgraph.weights import save_weights

REPORT_FILE = "conversion.json"  # beside the weights: where each tensor of the checkpoint went
_TORCH_STARTS = (
    b"PK\x03\x04",
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19",
)  # torch's zip, and what it wrote before version 1.6
_NESTED = (
    "model_state",
    "state_dict",
    "blobs",
)  # where training codes put the weights among other things
# A tensor of image networks -> whose they are.
_IMAGES = {
    "layer1.0.conv1.weight": "torchvision",
    "features.0.weight": "torchvision",
    "features.0.0.weight": "torchvision",
    "conv1_7x7_s2.weight": "BN-Inception",
}
_TAKES = {"torchvision": "i3d_r50", "BN-Inception": "stpyramid_bn_inception"}
_SHOWN = 3


@dataclass(frozen=True)
class ConversionReport:
    """What became of a checkpoint, beside the weights as `conversion.json`.

    Attributes:
        codebase: whose checkpoint it is.
        architecture: of ours.
        options: the architecture was built with.
        num_converted: tensors that came from the checkpoint.
        left_out: tensors of the checkpoint that are not in the weights: name -> why.
        fresh: tensors of the weights that start anew.
        names: tensors of the checkpoint -> ours, where each became one of ours.
    """

    codebase: str
    architecture: str
    options: dict[str, Any]
    num_converted: int
    left_out: dict[str, str]
    fresh: list[str]
    names: dict[str, str]

    def to_text(self) -> str:
        """For people: one line per reason."""
        options = "".join(f" {name}={value}" for name, value in self.options.items())
        lines = [
            f"{self.codebase}: {self.num_converted} tensors converted into "
            f"{self.architecture}{options}"
        ]
        for reason in dict.fromkeys(self.left_out.values()):
            lines.append(
                "  left out "
                f" {_first([name for name, why in self.left_out.items() if why == reason])}: "
                f"{reason}"
            )
        lines += [f"  anew      {_first(self.fresh)}: train it before use"] if self.fresh else []
        return "\n".join(lines)


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (
        f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    )


def convert_weights(
    file: Path,
    architecture: str | None,
    num_classes: int | None,
    options: Mapping[str, Any],
    out: Path,
) -> ConversionReport:
    """Converts a checkpoint into a folder of weights.

    Args:
        file: .npz with variables of the RSTG authors; or a checkpoint of a 3D ResNet: torch's, or a
            pickle of arrays; or one of an image network: BN-Inception or one of torchvision's, for
            architectures that have it; a ResNet, inflated, for 3D ResNets.
        architecture: of ours; None: `rstg_syncmnist` for an .npz file, `stpyramid_bn_inception` for
            BN-Inception, `i3d_r50` for the rest.
        num_classes: None: as many as the checkpoint has. Another number leaves its classifier out.
        options: of the architecture. A 3D ResNet is built as its codebase builds it (pools, stride
            of res5, pixel statistics) where they do not say otherwise.
        out: folder of the weights.

    Raises:
        WeightsError: the folder holds a training; no checkpoint, one that would run code, or one of
            another model.
    """
    if (out / "recipe.yaml").exists():
        raise WeightsError(
            f"{out}: holds a training, whose weights would be overwritten; choose another --out"
        )
    if file.suffix == ".npz":
        report, model = _convert_rstg(file, architecture or "rstg_syncmnist", num_classes, options)
    else:
        report, model = _convert_network(file, architecture, num_classes, options)
    save_weights(model, out)
    write_json(out / REPORT_FILE, {"file": file.name, **vars(report)})
    return report


def _convert_rstg(
    file: Path, architecture: str, num_classes: int | None, options: Mapping[str, Any]
) -> tuple[ConversionReport, nn.Module]:
    variables, model = _read_npz(file), create_model(architecture, num_classes, **options)
    state = convert_rstg_tensorflow(variables, model)
    model.load_state_dict(state)
    return ConversionReport(
        "RSTG's authors", architecture, dict(options), len(state), {}, [], {}
    ), model


def _convert_network(
    file: Path, architecture: str | None, num_classes: int | None, options: Mapping[str, Any]
) -> tuple[ConversionReport, nn.Module]:
    tensors = read_checkpoint(file)
    try:
        if source := next(
            (_IMAGES[name] for name in map(bare_name, tensors) if name in _IMAGES), None
        ):
            return _convert_images(
                source, tensors, architecture or _TAKES[source], num_classes, options
            )
        architecture = architecture or "i3d_r50"
        codebase = recognise(tensors)
        classes = num_classes or head_classes(tensors, codebase)
        if classes is None:
            raise WeightsError(
                "the checkpoint has no classifier; say how many classes yours is to have: "
                "--num-classes N"
            )
        built = _options(codebase, architecture, options)
        model = create_model(architecture, classes, **built)
        found = convert_i3d(tensors, model)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    model.load_state_dict(found.state)
    counted = (len(found.converted), found.left_out, found.fresh, found.converted)
    return ConversionReport(codebase.name, architecture, built, *counted), model


def _convert_images(
    source: str,
    tensors: Mapping[str, Any],
    architecture: str,
    num_classes: int | None,
    options: Mapping[str, Any],
) -> tuple[ConversionReport, nn.Module]:
    """Into every 2D network of the architecture, or, inflated, into its 3D ResNet. Classes of
    images are none of clips.
    """
    if num_classes is None:
        raise WeightsError(
            "a network of images has no classes of clips; say how many classes yours is to have: "
            "--num-classes N"
        )
    built = {
        name: value
        for name, value in {"pixels": "imagenet"}.items()
        if name in options_of(architecture)
    } | dict(options)
    model = create_model(architecture, num_classes, **built)
    tensors = {bare_name(name): value for name, value in tensors.items()}
    left_out = {name: "classifier of images" for name in tensors if is_head(name)}
    places = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, (BNInception, TorchvisionBackbone, ResNet3D))
    }
    if not places:
        raise WeightsError(
            f"{source}'s weights are of a network of images, and {architecture} has none; choose "
            "such an architecture"
        )
    names: dict[str, list[str]] = {name: [] for name in tensors if name not in left_out}
    filled: set[str] = set()
    for place, part in places.items():
        inflated = isinstance(part, ResNet3D)
        state = (
            inflate_resnet(tensors, part)
            if inflated
            else image_weights(tensors, part, cross_modality=True)
        )
        part.load_state_dict(state)
        filled |= {f"{place}.{name}" for name in state if not name.startswith("after.")}
        for name, ours in names.items():
            ours.append(f"{place}.{our_name(name) if inflated else name}")
    fresh = [name for name in model.state_dict() if name not in filled]
    whose = (
        f"{source}, inflated"
        if any(isinstance(part, ResNet3D) for part in places.values())
        else source
    )
    joined = {name: " and ".join(ours) for name, ours in names.items()}
    return ConversionReport(whose, architecture, built, len(names), left_out, fresh, joined), model


def _options(codebase: Codebase, architecture: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The codebase's own readings where the user gives none; those that the architecture has."""
    known = options_of(architecture)
    own = {name: value for name, value in codebase.options.items() if name in known}
    if "sample_fps" in given:
        own.pop("stride_frames", None)  # which would take its place
    return own | dict(given)


def _read_npz(file: Path) -> dict[str, Any]:
    try:
        with np.load(
            file, allow_pickle=False
        ) as arrays:  # arrays only: no code of the file can run
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise WeightsError(f"{file}: there is no such file") from error
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise WeightsError(
            f"{file}: not a whole .npz file of plain arrays, as numpy.savez(FILE, **variables) "
            "writes it"
        ) from error


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Names and values of a torch file or a pickle of arrays, without running any code of it; what
    lies around the weights is dropped.

    Raises:
        WeightsError: no such file, not a whole one, or one that holds more than plain tensors,
            arrays, texts and numbers.
    """
    try:
        with open(file, "rb") as opened:
            start = opened.read(max(map(len, _TORCH_STARTS)))
        content = (
            _read_torch(file)
            if start.startswith(_TORCH_STARTS)
            else unpickle_arrays(file.read_bytes())
        )
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise WeightsError(
            f"{file}: not a whole checkpoint of plain tensors ({error}); nothing in it was run; "
            "download it again"
        ) from error
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise WeightsError(
            f"{file}: holds a {type(content).__name__}, not named tensors; give a checkpoint"
        )
    return {str(name): value for name, value in content.items()}


def _read_torch(file: Path) -> Any:
    """A torch file as plain tensors.

    Raises:
        ValueError: it holds anything else, or is cut short.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{refused[1]} is not allowed" if refused else "cut short, or more than tensors"
        ) from error
    except (RuntimeError, OSError, EOFError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(" ".join(str(error).split()).partition(". ")[0] or "cut short") from error
