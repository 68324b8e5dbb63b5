"""`vidgraph convert`: a checkpoint of another codebase in, a folder of weights out.

No code of the checkpoint is run, and nothing is guessed: every foreign tensor becomes one of ours
or is named as left out, and every tensor of our backbone must be filled.

Shapes: I inputs and O outputs of a layer, T frames and H W pixels of a kernel, D width of an LSTM.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidgraph.backbones.image import mean_over_rgb
from vidgraph.errors import WeightsError
from vidgraph.models.build import create_model, merged, resolve_options
from vidgraph.models.foreign_names import CLASSIFIER, CODEBASES, RSTG, Codebase, rename
from vidgraph.util import read_checkpoint, write_json
from vidgraph.weights import save_weights

_REPORT_FILE = "conversion.json"  # beside the weights: where each tensor of the checkpoint went
_COUNTER = "num_batches_tracked"
_SHOWN = 3

# ---- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint; all but the state stands in `conversion.json`."""

    codebase: str
    names: dict[str, str]  # their tensors that are in the weights -> ours
    left_out: dict[str, str]  # their tensors that are not -> why
    fresh: list[str]  # our tensors that start anew
    state: dict[str, Tensor]  # of the whole model
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)  # of the model, beyond its name

    def to_text(self) -> str:
        """For people: one line per reason."""
        lines = [f"{self.codebase}: {len(self.names)} tensors converted into {self.model}"]
        for reason in dict.fromkeys(self.left_out.values()):
            names = [name for name, why in self.left_out.items() if why == reason]
            lines.append(f"  left out  {_first(names)}: {reason}")
        lines += [f"  anew      {_first(self.fresh)}: train it before use"] if self.fresh else []
        return "\n".join(lines)


def _first(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def convert_weights(
    file: Path, name: str | None, num_classes: int | None, overrides: Mapping[str, Any], out: Path
) -> Conversion:
    """Converts a checkpoint into a folder of weights.

    Args:
        file: .npz with variables of the RSTG authors; or a checkpoint of a 3D ResNet or a network
            of images: torch's, .safetensors, or a pickle of arrays.
        name: of our model; None: the one that the codebase's weights are usually for.
        num_classes: None: as many as the checkpoint has. Another number leaves its classifier out.
        overrides: of the model's options; else it is built as the codebase builds its networks.
        out: folder of the weights.

    Raises:
        WeightsError: the folder holds a training; no checkpoint, one that would run code, or one of
            another model.
    """
    if (out / "recipe.yaml").exists():
        raise WeightsError(
            f"{out}: holds a training, whose weights would be overwritten; choose another --out"
        )
    tensors = read_checkpoint(file)
    try:
        codebase, _ = recognise(tensors)
        name, own = name or codebase.model, dict(codebase.options)
        if "sample_fps" in overrides.get("input", {}) and "input" in own:
            own["input"] = {"num_frames": own["input"]["num_frames"]}  # a stride would count before
        named = asdict(resolve_options(name, {}, name))
        options = merged(_of_this_model(own, named), overrides)
        classes = num_classes or head_classes(tensors)
        if classes is None:
            raise WeightsError(
                "the checkpoint has no classifier of clips; say how many classes yours is to have: "
                "--num-classes N"
            )
        model = create_model(name, classes, **options)
        found = replace(convert_tensors(tensors, model), model=name, options=options)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    model.load_state_dict(found.state)
    save_weights(model, out)
    content = {key: value for key, value in vars(found).items() if key != "state"}
    write_json(out / _REPORT_FILE, content | {"file": file.name})
    return found


def _of_this_model(options: Mapping[str, Any], named: Any) -> dict[str, Any]:
    """The options that a model of such options has too."""
    return {
        key: _of_this_model(value, named[key]) if isinstance(value, Mapping) else value
        for key, value in options.items()
        if isinstance(named, Mapping) and key in named
    }


# ---- tensors -------------------------------------------------------------------------------------


def recognise(tensors: Mapping[str, Any]) -> tuple[Codebase, str]:
    """Whose checkpoint it is, by its names, and what stands before those of the network in it.

    Raises:
        WeightsError: of none that is known.
    """
    for codebase in CODEBASES:
        for name in tensors:
            if codebase.bare(name) == codebase.mark:
                part = name.removesuffix(codebase.mark) if codebase is not RSTG else ""
                return codebase, part
    shown = ", ".join(list(tensors)[:_SHOWN]) or "none"
    raise WeightsError(
        f"no network of {', '.join(dict.fromkeys(c.name for c in CODEBASES))}: its first tensors "
        f"are {shown}; give a checkpoint of one"
    )


def head_classes(tensors: Mapping[str, Any]) -> int | None:
    """Number of classes of the checkpoint's last layer; None where it has none of clips."""
    codebase, part = recognise(tensors)
    for _, name, value in [] if codebase.images else _renamed(tensors, codebase, part, {}):
        if name == f"{CLASSIFIER}weight":
            return len(value)
    return None


def convert_tensors(tensors: Mapping[str, Any], model: nn.Module) -> Conversion:
    """A checkpoint of any codebase as a state dict of a model, or of a part of one, that says which
    tensors are wanted and is not changed.

    Raises:
        WeightsError: a tensor that the model does not have, one of the model's that none fills, or
            another shape.
    """
    (codebase, part), wanted = recognise(tensors), model.state_dict()
    anchor = codebase.anchor
    places = [name.removesuffix(anchor) for name in wanted if name.endswith(anchor)]
    if not places:
        raise WeightsError(
            f"weights of {codebase.name} need a network that has {anchor!r}, and this model has "
            "none; choose another"
        )
    names, left_out, state = dict[str, str](), dict[str, str](), dict[str, Tensor]()
    for foreign, name, value in _renamed(tensors, codebase, part, left_out):
        whole = name.startswith(("head.", "backbone."))
        targets = [name] if whole else [place + name for place in places]
        if reason := _not_needed(name, value, wanted, targets[0]):
            left_out[foreign] = reason
            continue
        for target in targets:
            if target in state:
                raise WeightsError(f"tensor {foreign!r} would be {target!r}, and another is too")
            state[target] = _fitted(foreign, value, target, wanted, codebase.images)
        names[foreign] = " and ".join(targets)
    state |= _neutral_norms(state, wanted)
    fresh = _fresh(state, wanted, places, codebase.images)
    return Conversion(codebase.name, names, left_out, fresh, {**wanted, **state})


def _renamed(
    tensors: Mapping[str, Any], codebase: Codebase, part: str, left_out: dict[str, str]
) -> Iterator[tuple[str, str, Tensor]]:
    """Their name, ours and the value of every tensor that is not left out, and why others are."""
    for foreign, value in tensors.items():
        bare = codebase.bare(foreign)
        reasons = [why for name, why in codebase.ignored.items() if re.fullmatch(name, bare)]
        if not isinstance(value, (Tensor, np.ndarray)):
            reasons.append("not a tensor")
        if not foreign.startswith(part):
            reasons.append("of another part of the network")
        if reasons:
            left_out[foreign] = reasons[0]
            continue
        for name, array in _tensorflow(bare, value) if codebase is RSTG else [(bare, value)]:
            if not isinstance(array, Tensor):
                array = torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))
            ours = rename(name, codebase.rules)
            # Fully convolutional testing turns the last layer into a convolution.
            tensor = array.flatten(1) if ours == f"{CLASSIFIER}weight" else array
            yield foreign, ours, tensor.detach()


def _not_needed(name: str, value: Tensor, wanted: Mapping[str, Tensor], target: str) -> str | None:
    """Why a tensor is left out: a counter, or a classifier of other classes."""
    if target not in wanted and name.endswith(_COUNTER):
        return "a counter"
    if not name.startswith(CLASSIFIER):
        return None
    if target not in wanted:
        return "the model has no such classifier"
    theirs, ours = len(value), len(wanted[target])
    return f"classifier of {theirs} classes, and the model has {ours}" if theirs != ours else None


def _fitted(
    foreign: str, value: Tensor, name: str, wanted: Mapping[str, Tensor], images: bool
) -> Tensor:
    """A tensor in the shape that the model has."""
    if name not in wanted:
        raise WeightsError(
            f"tensor {foreign!r} would be {name!r}, which this model does not have; choose the "
            "checkpoint's model and options"
        )
    theirs, here = value.shape, wanted[name].shape
    if images and value.dim() == 4 and len(here) == 5:
        # Every frame of the kernel is a share of it: on a clip that stands still, the inflated
        # convolution computes what the image's does.
        value = (value[:, :, None] / here[2]).repeat(1, 1, here[2], 1, 1)
    elif images and theirs[1:2] == (3,) and len(here) == 4 and here[1] != 3:
        value = mean_over_rgb(value, here[1])
    elif images and value.dim() == 2 and len(here) == 1 and len(value) == 1:
        value = value[0]  # norms of the first published BN-Inception
    if value.shape == here:
        return value.to(wanted[name].dtype).contiguous()
    what = f"{list(theirs)} where {name!r} is {list(here)}"
    if len(theirs) == len(here) == 5 and theirs[:2] + theirs[3:] == here[:2] + here[3:]:
        what = f"a kernel over {theirs[2]} in time where {name!r} has {here[2]}"
    raise WeightsError(f"tensor {foreign!r}: {what}; set the model and options of the checkpoint")


def _neutral_norms(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What norms lack that frozen configurations of Caffe2 turned into a gain and a bias, or left
    out after a non-local block: mean 0, and a variance that the epsilon of 1e-5 makes 1."""
    neutral = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - 1e-5}
    found: dict[str, Tensor] = {}
    for mean in (name for name in wanted if name.endswith(".running_mean")):
        norm = mean.removesuffix("running_mean")
        have = {part for part in neutral if norm + part in state}
        if have == {"weight", "bias"} or (not have and norm.endswith("out_norm.")):
            for part in neutral.keys() - have:
                found[norm + part] = torch.full_like(wanted[norm + part], neutral[part])
    return found


def _fresh(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], places: list[str], images: bool
) -> list[str]:
    """Our tensors that start anew: a classifier as a whole; of networks of images, all that is
    outside of the places that take them, or inserted there. No other may be missing."""
    own = [name for name in wanted if not name.endswith(_COUNTER) and "normalize." not in name]
    absent = [name for name in own if name not in state]
    if images:
        free = [n for n in absent if not n.startswith(tuple(places)) or ".inserted." in n]
    else:
        half = any(name.startswith(CLASSIFIER) for name in state)
        free = [name for name in absent if name.startswith(CLASSIFIER) and not half]
    if missing := [name for name in absent if name not in free]:
        raise WeightsError(
            f"no tensor of the checkpoint fills {', '.join(missing[:_SHOWN])} ({len(missing)} of "
            f"{len(wanted)}); it is cut short, or of another model: convert it into its own, and "
            "start from that by model.initial_weights"
        )
    return free


# ---- TensorFlow's layouts ------------------------------------------------------------------------


def _tensorflow(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Variables of TensorFlow 1, kernels [..., I, O], in torch's layout, [O, I, ...]."""
    value, (scope, _, part) = np.asarray(value, np.float32), name.rpartition("/")
    if "lstm" in name:
        for own, array in _lstm(scope, part, value).items():
            yield f"{name.partition('/')[0]}/{own}", array
    elif scope.endswith("send_conv1"):
        # [..., 2 I, O]: the source's rows come first, then the destination's, which has the bias.
        mlp = scope.removesuffix("send_conv1")
        if part == "kernel":
            source, destination = np.split(value.reshape(value.shape[-2:]).T, 2, axis=1)
            yield f"{mlp}source/kernel", source
            yield f"{mlp}destination/kernel", destination
        else:
            yield f"{mlp}destination/bias", value
    elif part == "kernel" and value.size == math.prod(value.shape[-2:]):
        yield name, value.reshape(value.shape[-2:]).T
    else:
        yield name, value.transpose(3, 2, 0, 1) if part == "kernel" else value


def _lstm(scope: str, part: str, value: NDArray[np.float32]) -> dict[str, Any]:
    """A cuDNN-compatible cell (kernel [I + D, 4 D], one bias, gates i, g, f, o), which is what a
    saved checkpoint holds, or the buffer that cuDNN works on (gates i, f, g, o: input matrix,
    recurrent matrix, two biases, with I = D) as torch's four tensors."""
    if part == "opaque_kernel":
        width = (math.isqrt(1 + value.size // 2) - 1) // 2  # 8 D (D + 1) values
        if 8 * width * (width + 1) != value.size:
            raise WeightsError(f"variable {scope}/{part}: {value.size} values are no LSTM's buffer")
        lstm = nn.LSTM(width, width)
        nn.utils.vector_to_parameters(torch.from_numpy(value), lstm.parameters())
        return lstm.state_dict()
    gates = value.T.reshape(4, -1, *value.shape[:-1])[[0, 2, 1, 3]]  # [4, D, I + D], or [4, D]
    stacked = gates.reshape(-1, *value.shape[:-1])
    if part == "bias":
        return {"bias_ih_l0": stacked, "bias_hh_l0": np.zeros_like(stacked)}
    width = len(stacked) // 4
    return {"weight_ih_l0": stacked[:, :-width], "weight_hh_l0": stacked[:, -width:]}
