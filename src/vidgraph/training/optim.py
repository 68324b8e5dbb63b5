"""What learns, at which rate: freezing, parameter groups, the optimiser and its schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn

from vidgraph.errors import RecipeError, nearest
from vidgraph.training.phases import PhaseOptions


def begin_phase(model: nn.Module, learning: Sequence[nn.Parameter], options: PhaseOptions) -> None:
    """Frees `learning`, which had gradients before the first phase, then freezes what this freezes.

    Modules that lie wholly under a frozen prefix also go into evaluation mode, and so do batch
    norms under one of `freeze_norms`, whose gains and biases go on learning: they keep the
    statistics that they came with.
    """
    _check_prefixes("train.freeze", options.freeze, model)
    _check_prefixes("train.learn_from", options.learn_from, model)
    _check_prefixes("train.freeze_norms", options.freeze_norms, model)
    for parameter in learning:
        parameter.requires_grad_(True)
    model.train().zero_grad(set_to_none=True)
    frozen = (*options.freeze, *(p for start in options.learn_from for p in _before(model, start)))
    for name, parameter in model.named_parameters():
        if name.startswith(frozen):
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if f"{name}.".startswith((*frozen, *(options.freeze_norms if is_norm else ()))):
            module.eval()


def _before(model: nn.Module, start: str) -> list[str]:
    """Parameters of a backbone before the first one whose name starts so, and the prefixes of
    modules that have no others. Modules are registered in the order in which they are passed."""
    names = [name for name, _ in model.named_parameters()]
    first = next(i for i, name in enumerate(names) if name.startswith(start))
    root = "".join(names[first].partition("backbone.")[:2]) if "backbone." in start else ""
    before, modules = {name for name in names[:first] if name.startswith(root)}, []
    for name, module in model.named_modules():
        if f"{name}.".startswith(start) or name == names[first].rpartition(".")[0]:
            break
        if name.startswith(root) and all(
            f"{name}.{p}" in before for p, _ in module.named_parameters()
        ):
            modules.append(f"{name}.")
    return [*before, *modules]


def parameter_groups(model: nn.Module, options: PhaseOptions) -> list[dict[str, Any]]:
    """Groups by rate and decay: vectors are not decayed; the longest `lr_factors` prefix wins."""
    _check_prefixes("train.lr_factors", options.lr_factors, model)
    layer_factors = _layer_factors(model, options.layer_decay)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matching = [prefix for prefix in options.lr_factors if name.startswith(prefix)]
        lr = options.lr * (options.lr_factors[max(matching, key=len)] if matching else 1.0)
        lr *= layer_factors.get(name, 1.0)
        decay = options.weight_decay if parameter.ndim > 1 else 0.0
        group = {"params": [], "lr": lr, "initial_lr": lr, "weight_decay": decay}
        groups.setdefault((lr, decay), group)["params"].append(parameter)
    if not groups:
        raise RecipeError("train.freeze leaves no parameter to train")
    return list(groups.values())


def _layer_factors(model: nn.Module, decay: float) -> dict[str, float]:
    """The factor on the rate of each parameter of a backbone; layers inserted in it have none."""
    if decay == 1:
        return {}

    def layer(name: str) -> str:
        inside = name.partition("backbone.")[2]
        numbers = re.search(r"\.\d+(\.\d+)*\.", inside)
        return inside[: numbers.end()] if numbers else ""

    names = [name for name, _ in model.named_parameters() if "backbone." in name]
    names = [name for name in names if ".inserted." not in name]
    factors: dict[str, float] = {}
    for _, of_one in groupby(names, lambda name: name.partition("backbone.")[0]):
        layers = [list(same) for _, same in groupby(of_one, layer)]
        if len(layers) == 1:
            raise RecipeError(
                f"train.layer_decay: no numbers tell the layers of {layers[0][0]} and what follows "
                "apart; leave it at 1 and give train.lr_factors"
            )
        for below, same in enumerate(reversed(layers), start=1):
            factors |= dict.fromkeys(same, decay**below)
    return factors


def build_optimizer(model: nn.Module, options: PhaseOptions) -> torch.optim.Optimizer:
    """AdamW or SGD over `parameter_groups`."""
    groups = parameter_groups(model, options)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr)
    nesterov = options.nesterov and options.momentum > 0
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=nesterov)


def schedule_factor(options: PhaseOptions, clips_seen: int, total_clips: int) -> float:
    """The factor on the rate after `clips_seen` of `total_clips` clips of one phase.

    Linear over `warmup_clips` (from one step's share up to 1), then constant, half a cosine down to
    0 at the end, or lower by `drop_factor` from each of `drops` on.
    """
    if clips_seen < options.warmup_clips:
        return min(1.0, (clips_seen + options.batch_size) / options.warmup_clips)
    if options.schedule == "constant":
        return 1.0
    if options.schedule == "step":
        passed = sum(clips_seen >= share * total_clips for share in options.drops)
        return options.drop_factor**passed
    done = (clips_seen - options.warmup_clips) / max(1, total_clips - options.warmup_clips)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's rate to its own highest rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def _check_prefixes(key: str, prefixes: Iterable[str], model: nn.Module) -> None:
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            parts = prefix.rstrip(".").count(".") + 1
            hint = nearest(prefix, {".".join(name.split(".")[:parts]) + "." for name in names})
            raise RecipeError(f"{key}: no parameter starts with {prefix!r}{hint}")
