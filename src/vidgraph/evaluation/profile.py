"""What a model costs: parameters and multiply-adds, in all and per part.

A GMAC is 1e9 multiply-adds. Counted are convolutions, matrix products, attention and recurrent
layers, as they really run (and, where a model says so, products with zeros that its equations have
and its code leaves out); additions, norms and activations are not, as in the papers.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from vidgraph.records import InputSpec, Regions

OTHER = "(outside of parts)"


@runtime_checkable
class SkipsZeros(Protocol):
    """A module whose equations have products with zeros that its code leaves out: so many GMAC."""

    def skipped_gmac(self, *inputs: Tensor) -> float: ...


def profile_model(model: nn.Module, batch: int = 1) -> dict[str, Any]:
    """Counts parameters, multiply-adds and output shapes of one forward pass of a `VideoModel`.
    Nothing is computed: a copy of it runs on the meta device, which has shapes only.

    Returns:
        `{params, gmac: {total}, parts: {name: {params, gmac}}, output_shapes: {name: shape}}`, with
        one part per child of the model, and of a head one per child of it; "output" is the shape of
        the logits. Parameters that two parts share count once, in the first. Products with zeros
        that the code leaves out count in `total` and in the parts; `gmac` then has `executed` too.
    """
    names = _part_names(model)
    params = dict.fromkeys([*names, OTHER], 0)
    for path, parameter in model.named_parameters():
        params[_part_of(path, names)] += parameter.numel()
    model = copy.deepcopy(model).to("meta").eval()
    paths = {module: path for path, module in model.named_modules()}
    shapes: dict[str, list[int]] = {}
    skipped = dict.fromkeys([*names, OTHER], 0.0)

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        path = paths.get(module, "")
        if isinstance(module, SkipsZeros):
            skipped[_part_of(path, names)] += module.skipped_gmac(*inputs)
        first = output[0] if isinstance(output, (tuple, list)) else output
        if path in names and isinstance(first, Tensor):
            shapes[path] = list(first.shape)

    hook, counter = register_module_forward_hook(record), FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            logits = model(**example_inputs(cast(InputSpec, model.spec), batch, "meta"))
    finally:
        hook.remove()
    counted = {name: _gmac(counter, f"{type(model).__name__}.{name}") for name in names}
    executed = counter.get_total_flops() / 2e9
    counted[OTHER] = executed - sum(counted.values())
    parts = {n: {"params": params[n], "gmac": counted[n] + skipped[n]} for n in counted}
    if not params[OTHER] and abs(counted[OTHER]) < 1e-9:
        del parts[OTHER]
    zeros = sum(skipped.values())
    return {
        "params": sum(params.values()),
        "gmac": {"total": executed + zeros} | ({"executed": executed} if zeros else {}),
        "parts": parts,
        "output_shapes": {**shapes, "output": list(logits.shape)},
    }


def to_text(profile: dict[str, Any]) -> str:
    """A table for people: one row per part that costs something, then the whole."""
    gmac, parts = profile["gmac"], profile["parts"]
    shapes = {n: "x".join(map(str, shape)) for n, shape in profile["output_shapes"].items()}
    costs = {n: p for n, p in parts.items() if p["params"] or p["gmac"] >= 5e-5}  # what shows below
    costs["total"] = {"params": profile["params"], "gmac": gmac["total"]}
    shapes["total"], width = shapes["output"], max(map(len, costs))
    rows = [f"{'part':<{width}}  {'parameters':>12}  {'GMAC':>10}  output"]
    for name, cost in costs.items():
        numbers = f"{cost['params']:>12,}  {cost['gmac']:>10.4f}"
        rows.append(f"{name:<{width}}  {numbers}  {shapes.get(name, '')}".rstrip())
    if "executed" in gmac:
        rows.append(f"as it runs, without products with zeros: {gmac['executed']:.4f} GMAC")
    return "\n".join(rows)


def example_inputs(spec: InputSpec, batch: int, device: str = "cpu") -> dict[str, Any]:
    """What a model takes, in the right shapes: black clips, no motion, boxes of the whole frame."""
    size, frames, inputs = (spec.height, spec.width), (batch, spec.num_frames), dict[str, Any]()
    pixels: Any = {"dtype": torch.uint8, "device": device}
    if spec.channels:
        inputs["video"] = torch.zeros(batch, spec.channels, spec.num_frames, *size, **pixels)
    if spec.flow_length:
        stacks = (*frames, spec.num_stacks, 2 * spec.flow_length, *size)
        inputs["flow"] = torch.full(stacks, 128, **pixels)
    if spec.boxes_per_frame:
        ones = torch.ones(*frames, spec.boxes_per_frame, device=device)
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device).expand(*ones.shape, 4)
        inputs["regions"] = Regions(whole, ones, ones.bool())
    return inputs


def _part_names(model: nn.Module) -> list[str]:
    """The children, with those of a head in its place."""
    names = []
    for name, child in model.named_children():
        inside = [f"{name}.{part}" for part, _ in child.named_children()] if name == "head" else []
        names += inside or [name]
    return names


def _part_of(path: str, names: list[str]) -> str:
    return next((name for name in names if f"{path}.".startswith(f"{name}.")), OTHER)


def _gmac(counter: FlopCounterMode, part: str) -> float:
    """Of a part, or of the modules below it where its `forward` was not called."""
    counts = counter.get_flop_counts()
    inside = [name for name in counts if f"{name}.".startswith(f"{part}.")]
    below = [name for name in inside if any(name.startswith(f"{other}.") for other in inside)]
    return sum(sum(counts[name].values()) for name in inside if name not in below) / 2e9
