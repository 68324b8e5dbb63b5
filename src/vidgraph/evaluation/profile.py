"""What a model costs: parameters and multiply-adds, in all and per part.

A GMAC is 1e9 multiply-adds. Counted are convolutions, matrix products, attention and recurrent
layers, as they really run (and, where a model says so, products with zeros that its equations have
and its code leaves out); additions, norms and activations are not, as in the papers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidgraph.models.base import VideoModel
from vidgraph.records import InputSpec, Regions

OTHER = "(outside of parts)"


@runtime_checkable
class SkipsZeros(Protocol):
    """A module whose equations have products with zeros that its code leaves out."""

    def skipped_gmac(self, *inputs: Tensor) -> float:
        """Their GMAC in a pass over these inputs."""
        ...


def profile_model(model: VideoModel, batch: int = 1) -> dict[str, Any]:
    """Counts parameters, multiply-adds and output shapes of one forward pass in evaluation mode.

    Nothing is computed where the model allows it: it runs on the meta device, which has shapes
    only; else once on the CPU. The model itself is not changed.

    Args:
        model: any.
        batch: clips.

    Returns:
        `{params, gmac: {total}, parts: {name: {params, gmac}}, output_shapes: {name: shape}}`, with
        one part per child of the model, and of a head one per child of it; "output" is the shape of
        the logits. Parameters that two parts share count once, in the first. Products with zeros
        that the code leaves out count in `total` and in the parts; `gmac` then has `executed` too.
    """
    names = _part_names(model)
    counter, shapes, skipped = _run(model, names, batch)
    root = type(model).__name__
    gmac = {name: _gmac(counter, f"{root}.{name}") for name in names}
    executed = counter.get_total_flops() / 2e9
    gmac[OTHER] = executed - sum(gmac.values())
    gmac = {name: value + skipped.get(name, 0.0) for name, value in gmac.items()}
    params = _parameters(model, names)
    parts = {name: {"params": count, "gmac": gmac[name]} for name, count in params.items()}
    if parts[OTHER]["params"] == 0 and abs(gmac[OTHER]) < 1e-9:
        del parts[OTHER]
    total = {"total": executed + sum(skipped.values())}
    return {
        "params": sum(params.values()),
        "gmac": total | ({"executed": executed} if skipped else {}),
        "parts": parts,
        "output_shapes": shapes,
    }


def _part_names(model: nn.Module) -> list[str]:
    """The children, with those of a head in its place."""
    names = []
    for name, child in model.named_children():
        inside = [f"{name}.{part}" for part, _ in child.named_children()] if name == "head" else []
        names += inside or [name]
    return names


def to_text(profile: dict[str, Any]) -> str:
    """A table for people: one row per part that costs something, then the whole."""
    shapes = {
        name: "x".join(str(size) for size in shape)
        for name, shape in profile["output_shapes"].items()
    }
    width = max(len(name) for name in [*profile["parts"], "total"])
    rows = [f"{'part':<{width}}  {'parameters':>12}  {'GMAC':>10}  output"]
    for name, part in profile["parts"].items():
        if part["params"] or part["gmac"] >= 5e-5:  # that is, where four decimals show anything
            rows.append(
                f"{name:<{width}}  {part['params']:>12,}  {part['gmac']:>10.4f}  "
                f"{shapes.get(name, '')}".rstrip()
            )
    gmac = profile["gmac"]
    rows.append(
        f"{'total':<{width}}  {profile['params']:>12,}  {gmac['total']:>10.4f}  {shapes['output']}"
    )
    if "executed" in gmac:
        rows.append(f"as it runs, without products with zeros: {gmac['executed']:.4f} GMAC")
    return "\n".join(rows)


def example_inputs(
    spec: InputSpec, batch: int, device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """What a model eats, in the right shapes: black clips [B, C, T, H, W], flow [B, T, S, 2 L, H,
    W] without motion, whole-frame boxes.
    """
    size, inputs = (spec.height, spec.width), dict[str, Any]()
    if spec.channels:
        inputs["video"] = torch.zeros(
            batch, spec.channels, spec.num_frames, *size, dtype=torch.uint8, device=device
        )
    if spec.flow_length:
        snippets = (batch, spec.num_frames, spec.num_stacks, 2 * spec.flow_length)
        inputs["flow"] = torch.full((*snippets, *size), 128, dtype=torch.uint8, device=device)
    if spec.boxes_per_frame:
        boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(
            batch, spec.num_frames, spec.boxes_per_frame, 4
        )
        ones = torch.ones(boxes.shape[:3])
        inputs["regions"] = Regions(boxes, ones, ones.bool()).to(device)
    return inputs


Run = tuple[FlopCounterMode, dict[str, list[int]], dict[str, float]]


def _run(model: VideoModel, names: list[str], batch: int) -> Run:
    try:
        inputs = example_inputs(model.spec, batch, "meta")
        return _count(copy.deepcopy(model).to("meta"), names, inputs)
    except (NotImplementedError, RuntimeError):
        # A forward pass that reads values, such as boxes: those do not exist on meta.
        return _count(copy.deepcopy(model).to("cpu"), names, example_inputs(model.spec, batch))


def _count(model: VideoModel, names: list[str], inputs: dict[str, Any]) -> Run:
    """The counter, output shapes by part, and skipped GMAC by part."""
    shapes, skipped = dict[str, list[int]](), dict[str, float]()
    lstm = {torch.ops.aten.mkldnn_rnn_layer: _mkldnn_lstm_flops}
    counter = FlopCounterMode(display=False, custom_mapping=lstm)
    with _recorded(model, names, shapes, skipped), torch.no_grad(), counter:
        logits = model.eval()(**inputs)
    return counter, {**shapes, "output": list(logits.shape)}, skipped


@contextmanager
def _recorded(
    model: nn.Module, names: list[str], shapes: dict[str, list[int]], skipped: dict[str, float]
) -> Iterator[None]:
    """Hooks; of a part that returns several tensors, the first counts."""

    def shape_of(name: str) -> Any:
        def record(_module: nn.Module, _args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(first, Tensor):
                shapes[name] = list(first.shape)

        return record

    def zeros_of(name: str) -> Any:
        def record(module: Any, inputs: tuple[Tensor, ...], _output: Any) -> None:
            if gmac := module.skipped_gmac(*inputs):
                skipped[name] = skipped.get(name, 0.0) + gmac

        return record

    handles = [model.get_submodule(n).register_forward_hook(shape_of(n)) for n in names]
    skipping = [path for path, module in model.named_modules() if isinstance(module, SkipsZeros)]
    for path in skipping:
        module = model.get_submodule(path)
        handles.append(module.register_forward_hook(zeros_of(_part_of(path, names))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _mkldnn_lstm_flops(
    frames: Any, input_weight: Any, hidden_weight: Any, *_args: Any, **_kwargs: Any
) -> int:
    """On the CPU an LSTM layer is one oneDNN call, which torch's counter does not know: [T, B, I]
    through [4 D, I] and [4 D, D].
    """
    steps = frames[0] * frames[1]
    return (
        2
        * int(steps)
        * int(input_weight[0] * input_weight[1] + hidden_weight[0] * hidden_weight[1])
    )


def _gmac(counter: FlopCounterMode, module: str) -> float:
    """Of a module, or, where not its `forward` was called but others of its methods, of the modules
    below it that these call.
    """
    counts = counter.get_flop_counts()
    inside = [name for name in counts if name == module or name.startswith(f"{module}.")]
    outermost = [
        name for name in inside if not any(name.startswith(f"{other}.") for other in inside)
    ]
    return float(sum(sum(counts[name].values()) for name in outermost)) / 2e9


def _parameters(model: nn.Module, names: list[str]) -> dict[str, int]:
    """Parameters per part, and beside them; each tensor counts once."""
    counts, seen = dict.fromkeys([*names, OTHER], 0), set()
    for path, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            counts[_part_of(path, names)] += parameter.numel()
    return counts


def _part_of(path: str, names: list[str]) -> str:
    return next((name for name in names if f"{path}.".startswith(f"{name}.")), OTHER)
