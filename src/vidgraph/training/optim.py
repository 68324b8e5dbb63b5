"""Optimiser groups, freezing and the learning-rate schedule, as plain functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vidgraph.config import TrainRecipe
from vidgraph.errors import RecipeError, nearest


def freeze(model: nn.Module, prefixes: Sequence[str], norm_prefixes: Sequence[str] = ()) -> int:
    """Stops the gradient of parameters whose names start with one of `prefixes`; returns how many
    tensors that are.

    Modules that lie wholly under such a prefix also go into evaluation mode, and so do batch norms
    under one of `norm_prefixes`, whose gains and biases go on learning: they keep the statistics
    that they came with.

    Raises:
        RecipeError: a prefix that no parameter has.
    """
    names = [name for name, _ in model.named_parameters()]
    _check_prefixes("train.freeze", prefixes, names)
    _check_prefixes("train.freeze_norms", norm_prefixes, names)
    frozen = [p for name, p in model.named_parameters() if name.startswith(tuple(prefixes))]
    for parameter in frozen:
        parameter.requires_grad_(False)
    for name, module in model.named_modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if f"{name}.".startswith(tuple(prefixes)) or (
            is_norm and f"{name}.".startswith(tuple(norm_prefixes))
        ):
            module.eval()
    return len(frozen)


def parameter_groups(model: nn.Module, recipe: TrainRecipe) -> list[dict[str, Any]]:
    """Groups by rate and decay: biases, norms and other vectors are not decayed; `lr_factors` scale
    the rate by name prefix.

    Raises:
        RecipeError: a prefix in `lr_factors` that no parameter has, or nothing left to train.
    """
    _check_prefixes(
        "train.lr_factors", list(recipe.lr_factors), [name for name, _ in model.named_parameters()]
    )
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matching = [prefix for prefix in recipe.lr_factors if name.startswith(prefix)]
        lr = recipe.lr * (recipe.lr_factors[max(matching, key=len)] if matching else 1.0)
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        group = groups.setdefault(
            (lr, decay), {"params": [], "lr": lr, "initial_lr": lr, "weight_decay": decay}
        )
        group["params"].append(parameter)
    if not groups:
        raise RecipeError("train.freeze leaves no parameter to train")
    return list(groups.values())


def build_optimizer(model: nn.Module, recipe: TrainRecipe) -> torch.optim.Optimizer:
    """AdamW or SGD over `parameter_groups`."""
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )


def schedule_factor(recipe: TrainRecipe, clips_seen: int, total_clips: int) -> float:
    """The factor on the learning rate for the step that starts after `clips_seen` clips of
    `total_clips`, both of one stage.

    Linear over `warmup_clips` (from one step's share up to 1), then constant, half a cosine down to
    0 at the end, or lower by `drop_factor` from each of `drops` on.
    """
    if clips_seen < recipe.warmup_clips:
        return min(1.0, (clips_seen + recipe.batch_size) / recipe.warmup_clips)
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "step":
        return recipe.drop_factor ** sum(
            clips_seen >= share * total_clips for share in recipe.drops
        )
    done = (clips_seen - recipe.warmup_clips) / max(1, total_clips - recipe.warmup_clips)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's rate to its own highest rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def _check_prefixes(key: str, prefixes: Sequence[str], names: Sequence[str]) -> None:
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise RecipeError(
                f"{key}: no parameter starts with "
                f"{prefix!r}{nearest(prefix, {n.split('.')[0] + '.' for n in names})}"
            )
