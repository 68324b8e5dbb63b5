"""3D ResNets of other codebases (C2D, I3D, non-local) as weights of ours: pure functions from named
tensors to a state dict.

Nothing is guessed: every foreign tensor becomes one of ours or is named as left out, and every
tensor of our backbone must be filled. A temporal kernel that fits no block here means another
inflation, and is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidgraph.errors import WeightsError

NORM_EPS = 1e-5  # of every batch norm of these networks, theirs and ours
# what every 3D ResNet of ours has; what stands before it is the backbone's place in the model
_BLOCK = "res2.0.a.weight"
_COUNTER = "num_batches_tracked"
_HEAD = "classifier."

_Rule = tuple[str, Callable[[re.Match[str]], str]]


@dataclass(frozen=True)
class Codebase:
    """Whose checkpoint it is, and how its tensors are called.

    Attributes:
        name: for people.
        mark: a tensor that only these checkpoints have.
        prefixes: pattern of what wrappers put before the names.
        rules: pattern of a name -> our name, where the backbone stands at the top and the last
            layer is `classifier`.
        ignored: pattern of a name -> why it is left out.
        options: of the architecture, as the codebase's own networks are built: pools, stride of
            res5, pixel statistics, clips.
        affine: a norm may be a gain and a bias without statistics.
    """

    name: str
    mark: str
    prefixes: str
    rules: tuple[_Rule, ...]
    ignored: Mapping[str, str]
    options: Mapping[str, Any]
    affine: bool = False

    def rename(self, foreign: str) -> str | None:
        """Our name of one of their tensors; None where it has none."""
        name = self.bare(foreign)
        return next(
            (rule(match) for pattern, rule in self.rules if (match := re.fullmatch(pattern, name))),
            None,
        )

    def bare(self, foreign: str) -> str:
        """The name without what wrappers put before it."""
        return re.sub(rf"^(?:{self.prefixes})", "", foreign)

    def reason(self, foreign: str) -> str | None:
        """Why a tensor that has no place is left out; None where it should have had one."""
        name = self.bare(foreign)
        return next(
            (why for pattern, why in self.ignored.items() if re.fullmatch(pattern, name)), None
        )


@dataclass(frozen=True)
class Converted:
    """What became of a checkpoint.

    Attributes:
        codebase: whose it is.
        state: a full state dict of the model.
        converted: their tensors that are in it: name -> our name.
        left_out: their tensors that have no place here: name -> why.
        fresh: our tensors that keep the values the model had: the classifier, where theirs is of
            other classes.
    """

    codebase: Codebase
    state: dict[str, Tensor]
    converted: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)


# ---- names ---------------------------------------------------------------------------------------

_CONV_OR_NORM = {"conv": "", "norm": "_norm", "0": "", "1": "_norm", None: "", "_bn": "_norm"}
_LETTER = {"1": "a", "2": "b", "3": "c"}
_STAGE_OF_BLOCK = {
    "1": "res2",
    "3": "res3",
    "4": "res4",
    "5": "res5",
}  # PyTorchVideo counts the pool after res2 as a block
_CAFFE2_PART = {
    "w": "weight",
    "b": "bias",
    "s": "weight",
    "rm": "running_mean",
    "riv": "running_var",
}  # riv is the variance itself
_PART = r"(?P<part>weight|bias|running_mean|running_var|num_batches_tracked)"

_PYTORCHVIDEO: tuple[_Rule, ...] = (
    (rf"blocks\.0\.(conv|norm)\.{_PART}", lambda m: f"stem.{m[1]}.{m['part']}"),
    (
        rf"blocks\.([1345])\.res_blocks\.(\d+)\.branch1_(conv|norm)\.{_PART}",
        lambda m: f"{_STAGE_OF_BLOCK[m[1]]}.{m[2]}.shortcut{_CONV_OR_NORM[m[3]]}.{m['part']}",
    ),
    (
        rf"blocks\.([1345])\.res_blocks\.(\d+)\.branch2\.(conv|norm)_([abc])\.{_PART}",
        lambda m: f"{_STAGE_OF_BLOCK[m[1]]}.{m[2]}.{m[4]}{_CONV_OR_NORM[m[3]]}.{m['part']}",
    ),
    (r"blocks\.6\.proj\.(weight|bias)", lambda m: f"classifier.{m[1]}"),
)

_SLOWFAST: tuple[_Rule, ...] = (
    (rf"s1\.pathway0_stem\.conv\.{_PART}", lambda m: f"stem.conv.{m['part']}"),
    (rf"s1\.pathway0_stem\.bn\.{_PART}", lambda m: f"stem.norm.{m['part']}"),
    (
        rf"s([2-5])\.pathway0_res(\d+)\.branch1(_bn)?\.{_PART}",
        lambda m: f"res{m[1]}.{m[2]}.shortcut{_CONV_OR_NORM[m[3]]}.{m['part']}",
    ),
    (
        rf"s([2-5])\.pathway0_res(\d+)\.branch2\.([abc])(_bn)?\.{_PART}",
        lambda m: f"res{m[1]}.{m[2]}.{m[3]}{_CONV_OR_NORM[m[4]]}.{m['part']}",
    ),
    (
        rf"s([2-5])\.pathway0_nonlocal(\d+)\.conv_(theta|phi|g|out)\.{_PART}",
        lambda m: f"after.res{m[1]}_{m[2]}.{m[3]}.{m['part']}",
    ),
    (
        rf"s([2-5])\.pathway0_nonlocal(\d+)\.(?:bn|norm)\.{_PART}",
        lambda m: f"after.res{m[1]}_{m[2]}.out_norm.{m['part']}",
    ),
    (r"head\.projection\.(weight|bias)", lambda m: f"classifier.{m[1]}"),
)

_SOMETHING_ELSE: tuple[_Rule, ...] = (
    (rf"conv1\.{_PART}", lambda m: f"stem.conv.{m['part']}"),
    (rf"bn1\.{_PART}", lambda m: f"stem.norm.{m['part']}"),
    (
        rf"layer([1-4])\.(\d+)\.shortcut\.([01])\.{_PART}",
        lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut{_CONV_OR_NORM[m[3]]}.{m['part']}",
    ),
    (
        rf"layer([1-4])\.(\d+)\.conv([123])\.([01])\.{_PART}",
        lambda m: f"res{int(m[1]) + 1}.{m[2]}.{_LETTER[m[3]]}{_CONV_OR_NORM[m[4]]}.{m['part']}",
    ),
    (r"(?:classifier|fc)\.(weight|bias)", lambda m: f"classifier.{m[1]}"),
)

_CAFFE2: tuple[_Rule, ...] = (
    (r"(?:res_)?conv1_w", lambda m: "stem.conv.weight"),
    (r"res_conv1_bn_(s|b|rm|riv)", lambda m: f"stem.norm.{_CAFFE2_PART[m[1]]}"),
    (
        r"res([2-5])_(\d+)_branch1(_bn)?_(w|s|b|rm|riv)",
        lambda m: f"res{m[1]}.{m[2]}.shortcut{_CONV_OR_NORM[m[3]]}.{_CAFFE2_PART[m[4]]}",
    ),
    (
        r"res([2-5])_(\d+)_branch2([abc])(_bn)?_(w|s|b|rm|riv)",
        lambda m: f"res{m[1]}.{m[2]}.{m[3]}{_CONV_OR_NORM[m[4]]}.{_CAFFE2_PART[m[5]]}",
    ),
    (
        r"nonlocal_conv([2-5])_(\d+)_(theta|phi|g|out)_(w|b)",
        lambda m: f"after.res{m[1]}_{m[2]}.{m[3]}.{_CAFFE2_PART[m[4]]}",
    ),
    (
        r"nonlocal_conv([2-5])_(\d+)_bn_(s|b|rm|riv)",
        lambda m: f"after.res{m[1]}_{m[2]}.out_norm.{_CAFFE2_PART[m[3]]}",
    ),
    (r"pred_(w|b)", lambda m: f"classifier.{_CAFFE2_PART[m[1]]}"),
)

# Pixel statistics: 0.45 and 0.225 of [0, 1]; the Caffe2 networks' 114.75 and 57.375 of 255 are the
# same numbers. The networks that PyTorchVideo and SlowFast publish take 8 frames with stride 8; the
# others' clips are not told by their weights.
_EIGHT_BY_EIGHT = {
    "stem": "padded",
    "res5_stride": 2,
    "pixels": "kinetics",
    "num_frames": 8,
    "stride_frames": 8,
}
CODEBASES: tuple[Codebase, ...] = (
    Codebase(
        "PyTorchVideo",
        "blocks.1.res_blocks.0.branch2.conv_a.weight",
        r"(?:module\.|model\.)+",
        _PYTORCHVIDEO,
        {},
        _EIGHT_BY_EIGHT,
    ),
    Codebase(
        "SlowFast",
        "s2.pathway0_res0.branch2.a.weight",
        r"(?:module\.|model\.)+",
        _SLOWFAST,
        {},
        _EIGHT_BY_EIGHT,
    ),
    Codebase(
        "Something-Else",
        "layer1.0.conv1.0.weight",
        r"(?:module\.|i3D\.)+",
        _SOMETHING_ELSE,
        {},
        {"stem": "valid", "res5_stride": 1, "pixels": "imagenet"},
    ),
    Codebase(
        "Caffe2 non-local network",
        "res2_0_branch2a_w",
        r"gpu_\d+/",
        _CAFFE2,
        {
            r".*_momentum": "momentum of the optimiser",
            r"lr|model_iter|epoch": "state of the training",
        },
        {"stem": "valid", "res5_stride": 2, "pixels": "kinetics"},
        affine=True,
    ),
)


# ---- tensors -------------------------------------------------------------------------------------


def recognise(tensors: Mapping[str, Any]) -> Codebase:
    """Whose checkpoint it is, by its names.

    Raises:
        WeightsError: of none that is known.
    """
    found = [
        codebase
        for codebase in CODEBASES
        if any(codebase.bare(name) == codebase.mark for name in tensors)
    ]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(list(map(str, tensors))[:3]) or "none"
    raise WeightsError(
        f"no 3D ResNet of {', '.join(c.name for c in CODEBASES)}: its first tensors are {shown}; "
        "give a checkpoint of one"
    )


def head_classes(tensors: Mapping[str, Any], codebase: Codebase) -> int | None:
    """Number of classes of the checkpoint's last layer; None where it has none."""
    heads = (
        value
        for name, value in _own(tensors, codebase)
        if codebase.rename(name) == "classifier.weight" and value.ndim
    )
    return next((len(value) for value in heads), None)


def convert_i3d(tensors: Mapping[str, Any], model: nn.Module) -> Converted:
    """A checkpoint of any codebase above as a state dict of `model`.

    Args:
        tensors: name -> tensor or array, as in the checkpoint; values of another kind are left out.
        model: a `ResNet3D`, or a model with one and a `classifier`; it says which tensors are
            wanted and is not changed.

    Raises:
        WeightsError: a tensor that the model has no place for, one of the model's that none fills,
            or another shape.
    """
    codebase, wanted = recognise(tensors), model.state_dict()
    place = next((name.removesuffix(_BLOCK) for name in wanted if name.endswith(_BLOCK)), None)
    if place is None:
        raise WeightsError(
            f"{codebase.name} weights are a 3D ResNet's, and a {type(model).__name__} has none; "
            "choose such an architecture"
        )
    result = Converted(codebase, {})
    own, taken = dict(_own(tensors, codebase)), dict[str, str]()
    for foreign, value in tensors.items():
        ours = codebase.rename(foreign) if foreign in own else None
        if ours is None:
            result.left_out[foreign] = _why(foreign, value, codebase, foreign in own)
            continue
        name = ours if ours.startswith(_HEAD) else place + ours
        if name in taken:
            raise WeightsError(
                f"tensors {taken[name]!r} and {foreign!r} would both be {name!r}; leave one of "
                "them out"
            )
        taken[name] = foreign
        tensor = _as_tensor(value, ours)
        if reason := _not_this_model(ours, tensor, wanted.get(name)):
            result.left_out[foreign] = reason
        else:
            result.state[name] = _fitting(foreign, name, tensor, wanted)
            result.converted[foreign] = name
    if codebase.affine:
        result.state.update(_identities(result.state, wanted))
    return _completed(result, wanted)


def _own(tensors: Mapping[str, Any], codebase: Codebase) -> list[tuple[str, Any]]:
    """Tensors of the 3D ResNet; where it is a part of a larger network, those of that part."""
    part = next(
        (name for name in tensors if codebase.bare(name) == codebase.mark), ""
    ).removesuffix(codebase.mark)
    return [
        (name, value)
        for name, value in tensors.items()
        if name.startswith(part) and isinstance(value, (Tensor, np.ndarray))
    ]


def _why(foreign: str, value: Any, codebase: Codebase, own: bool) -> str:
    reason = codebase.reason(foreign)
    if reason is None and not own:
        reason = (
            "of another part of the network"
            if isinstance(value, (Tensor, np.ndarray))
            else "not a tensor"
        )
    if reason is None:
        raise WeightsError(
            f"tensor {foreign!r} is none that a 3D ResNet of {codebase.name} has; leave it out, "
            "or convert it by hand"
        )
    return reason


def _as_tensor(value: Any, ours: str) -> Tensor:
    tensor = (
        value.detach()
        if isinstance(value, Tensor)
        else torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))
    )
    # Fully convolutional testing turns the last layer into a convolution: [classes, C, 1, 1, 1].
    return (
        tensor.flatten(1)
        if ours == "classifier.weight" and tensor.shape[2:].numel() == 1 and tensor.dim() > 2
        else tensor
    )


def _not_this_model(ours: str, tensor: Tensor, wanted: Tensor | None) -> str | None:
    """Why a tensor with a place is not needed here: a counter, or a classifier of other classes."""
    if wanted is None and ours.endswith(_COUNTER):
        return "a counter"
    if not ours.startswith(_HEAD):
        return None
    if wanted is None:
        return "the model has no classifier"
    theirs = len(tensor) if tensor.dim() else 0
    return (
        f"classifier of {theirs} classes, and the model has {len(wanted)}"
        if theirs != len(wanted)
        else None
    )


def _fitting(foreign: str, name: str, tensor: Tensor, wanted: Mapping[str, Tensor]) -> Tensor:
    if name not in wanted:
        raise WeightsError(
            f"tensor {foreign!r} would be {name!r}, which this model does not have; choose the "
            "checkpoint's architecture"
        )
    here = wanted[name]
    if tensor.shape == here.shape:
        return tensor.to(here.dtype).contiguous()
    if (
        tensor.dim() == here.dim() == 5
        and tensor.shape[:2] + tensor.shape[3:] == here.shape[:2] + here.shape[3:]
    ):
        kernels = f"a kernel over {tensor.shape[2]} in time where {name!r} has {here.shape[2]}"
        raise WeightsError(
            f"tensor {foreign!r}: {kernels}; set the architecture, or its inflation, to that of "
            "the weights"
        )
    shapes = f"{list(tensor.shape)} where {name!r} is {list(here.shape)}"
    raise WeightsError(
        f"tensor {foreign!r}: {shapes}; set the architecture and options of the checkpoint"
    )


def _identities(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What norms lack that the frozen configurations turned into a gain and a bias, or left out
    after a non-local block.

    A gain and a bias alone: mean 0, and a variance that the added epsilon makes 1.
    """
    neutral = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - NORM_EPS}
    found: dict[str, Tensor] = {}
    for mean in (name for name in wanted if name.endswith("norm.running_mean")):
        norm = mean.removesuffix("running_mean")
        have = {part for part in neutral if norm + part in state}
        if have == {"weight", "bias"} or (not have and norm.endswith("out_norm.")):
            found |= {
                norm + part: torch.full_like(wanted[norm + part], value)
                for part, value in neutral.items()
                if part not in have
            }
    return found


def _completed(result: Converted, wanted: Mapping[str, Tensor]) -> Converted:
    """The state in the model's order, with what no checkpoint needs to hold; anything else that is
    missing is an error.
    """
    state = {name: result.state.get(name, value) for name, value in wanted.items()}
    absent = [name for name in wanted if name not in result.state and not name.endswith(_COUNTER)]
    head = [name for name in absent if name.startswith(_HEAD)]
    missing = [name for name in absent if name not in head]
    if missing:
        raise WeightsError(
            f"no tensor of the checkpoint fills {', '.join(missing[:3])} ({len(missing)} of "
            f"{len(wanted)}); "
            "it is cut short, or of another architecture: convert it into its own, and start from "
            "that by model.initial_weights"
        )
    if len(head) == 1:
        raise WeightsError(
            f"no tensor of the checkpoint fills {head[0]}, but the rest of the classifier is "
            "there; it is cut short"
        )
    return replace(result, state=state, fresh=head)
