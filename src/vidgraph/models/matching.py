"""Tensors of a file into a model: those that fit by name, shape and kind of number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from vidgraph.errors import WeightsError

_SHOWN = 3


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor when weights met a model."""

    loaded: list[str]  # copied into the model
    skipped_shape: dict[str, tuple[str, str]]  # name -> its kind in the file and in the model
    missing: list[str]  # the model's, not in the file
    unexpected: list[str]  # the file's, not in the model

    @property
    def complete(self) -> bool:
        """Whether every tensor of the file and of the model was used."""
        return not (self.skipped_shape or self.missing or self.unexpected)

    def to_text(self) -> str:
        """A table for people: one row per tensor that was not loaded."""
        rows = [f"  loaded      {len(self.loaded)} tensors"]
        for name, (there, here) in self.skipped_shape.items():
            rows.append(f"  not loaded  {name}  {there} -> {here}: starts anew")
        rows += [f"  not loaded  {name}  not in the file: starts anew" for name in self.missing]
        rows += [f"  not used    {name}  not in the model" for name in self.unexpected]
        return "\n".join(rows)

    def summary(self) -> str:
        """How many tensors are at fault, and the first of each kind."""
        shapes = [f"{n} ({a}, the model has {b})" for n, (a, b) in self.skipped_shape.items()]
        groups = {"missing": self.missing, "unexpected": self.unexpected}
        groups["of another shape"] = shapes
        return "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', ...' * (len(names) > _SHOWN)}"
            for kind, names in groups.items()
            if names
        )


def load_matching(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Copies the tensors that fit by name and shape; the rest of the model stays.

    Raises:
        WeightsError: not one tensor fits, so nothing would have been loaded; or a first convolution
            of images stands where the model has one of optical flow, which would start anew under
            trained layers.
    """
    for name, here in model.state_dict().items():
        there = state.get(name, here)
        if here.dim() != 4 or there.dim() != 4 or there.shape[1] != 3 or here.shape[1] % 2:
            continue
        if len(here) == len(there) and here.shape[2:] == there.shape[2:]:
            raise WeightsError(
                f"tensor {name!r}: 3 channels of images in the weights where the model takes "
                f"{here.shape[1]} of flow; convert the weights of the image network for this model "
                "(vidgraph convert), which averages over them"
            )
    report = copy_matching(model, state)
    if not report.loaded:
        raise WeightsError(
            f"no tensor of these weights fits a {type(model).__name__}: {report.summary()}; give "
            "weights of the same backbone"
        )
    return report


def copy_matching(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """As `load_matching`, also where not one tensor fits."""
    own = model.state_dict()
    there = {key: state[key] for key in own if key in state}
    fits = {key: value for key, value in there.items() if kind_of(value) == kind_of(own[key])}
    misfits = {key: (kind_of(there[key]), kind_of(own[key])) for key in there if key not in fits}
    model.load_state_dict(fits, strict=False)
    missing = [key for key in own if key not in state]
    return LoadReport(list(fits), misfits, missing, [key for key in state if key not in own])


def kind_of(tensor: Tensor) -> str:
    """Shape and kind of number: bf16 goes into float32, nothing else across kinds."""
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"
