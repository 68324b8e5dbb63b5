"""What a model costs: parameters and multiply-adds, in all and per part.

A GMAC is 1e9 multiply-adds. Counted are convolutions, matrix products, attention and recurrent
layers, as they really run (and, where a model says so, products with zeros that its equations have
and its code leaves out); additions, norms and activations are not, as in the papers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidgraph.records import InputSpec, Regions

OTHER = "(outside of parts)"


def profile_model(model: nn.Module, batch: int = 1) -> dict[str, Any]:
    """Counts parameters, multiply-adds and output shapes of one forward pass in evaluation mode.

    Nothing is computed where the model allows it: it runs on the meta device, which has shapes
    only; else once on the CPU. The model itself is not changed.

    Args:
        model: with `spec`. Where its paper counts otherwise than the code runs,
            `paper_gmac(parts, batch)` says how, from the GMAC of each part. Where its equations
            have products with zeros that the code leaves out, `skipped_gmac(output_shapes)` gives
            the GMAC of these products per part: they count in `total` and in the parts, and
            `executed` is the rest.
        batch: clips.

    Returns:
        `{params, gmac: {total, paper_accounting}, parts: {name: {params, gmac}}, output_shapes:
        {name: shape}}`, with one part per child of the model; "output" is the shape of the logits.
        Parameters that two parts share count once, in the first. `gmac` has `executed` too, where
        it differs from `total`.
    """
    counter, shapes = _run(model, batch)
    params = _parameters(model)
    gmac = {
        name: _gmac(counter, f"{type(model).__name__}.{name}") for name in params if name != OTHER
    }
    executed = counter.get_total_flops() / 2e9
    gmac[OTHER] = executed - sum(gmac.values())
    zeros = getattr(model, "skipped_gmac", None)
    skipped: dict[str, float] = {} if zeros is None else zeros(shapes)
    gmac = {name: value + skipped.get(name, 0.0) for name, value in gmac.items()}
    total = executed + sum(skipped.values())
    parts = {name: {"params": count, "gmac": gmac[name]} for name, count in params.items()}
    if parts[OTHER]["params"] == 0 and abs(gmac[OTHER]) < 1e-9:
        del parts[OTHER]
    accounting = getattr(model, "paper_gmac", None)
    return {
        "params": sum(params.values()),
        "gmac": {
            "total": total,
            "paper_accounting": total if accounting is None else accounting(gmac, batch),
            **({"executed": executed} if skipped else {}),
        },
        "parts": parts,
        "output_shapes": shapes,
    }


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
    if gmac["paper_accounting"] != gmac["total"]:
        rows.append(f"as the paper counts: {gmac['paper_accounting']:.4f} GMAC")
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
        boxes = torch.tensor([0.0, 0.0, spec.width, spec.height]).expand(
            batch, spec.num_frames, spec.boxes_per_frame, 4
        )
        ones = torch.ones(boxes.shape[:3])
        inputs["regions"] = Regions(boxes, ones, ones.bool()).to(device)
    return inputs


def _run(model: nn.Module, batch: int) -> tuple[FlopCounterMode, dict[str, list[int]]]:
    spec = model.spec
    if not isinstance(spec, InputSpec):
        raise TypeError(f"a {type(model).__name__} has no spec")
    try:
        return _count(copy.deepcopy(model).to("meta"), example_inputs(spec, batch, "meta"))
    except (
        NotImplementedError,
        RuntimeError,
    ):  # a forward pass that reads values, such as boxes: those do not exist on meta
        return _count(copy.deepcopy(model).to("cpu"), example_inputs(spec, batch))


def _count(
    model: nn.Module, inputs: dict[str, Any]
) -> tuple[FlopCounterMode, dict[str, list[int]]]:
    shapes: dict[str, list[int]] = {}
    counter = FlopCounterMode(
        display=False, depth=1, custom_mapping={torch.ops.aten.mkldnn_rnn_layer: _mkldnn_lstm_flops}
    )
    with _recorded_shapes(model, shapes), torch.no_grad(), counter:
        logits = model.eval()(**inputs)
    return counter, {**shapes, "output": list(logits.shape)}


@contextmanager
def _recorded_shapes(model: nn.Module, shapes: dict[str, list[int]]) -> Iterator[None]:
    """Hooks on the children; of a child that returns several tensors, the first counts."""

    def hook(name: str) -> Any:
        def record(_module: nn.Module, _args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(first, Tensor):
                shapes[name] = list(first.shape)

        return record

    handles = [child.register_forward_hook(hook(name)) for name, child in model.named_children()]
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


def _parameters(model: nn.Module) -> dict[str, int]:
    """Parameters per child, and of the model itself; each tensor counts once."""
    counts, seen = {name: 0 for name, _ in model.named_children()} | {OTHER: 0}, set()
    for path, parameter in model.named_parameters(remove_duplicate=False):
        part = path.split(".")[0]
        if id(parameter) not in seen:
            seen.add(id(parameter))
            counts[part if part in counts else OTHER] += parameter.numel()
    return counts
