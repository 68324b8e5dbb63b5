"""What version 0.1 wrote, in today's words: flat options, clips, and names of tensors.

Version 0.1 had one flat mapping of options per architecture. Weights and recipes that it wrote go
on loading through the tables below, which change only when a name of today does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vidgraph.errors import RecipeError
from vidgraph.models.foreign_names import RESIDUAL_BLOCKS, numbered_layers, rename

_STREAMS = ("stpyramid", "two_stream", "lrcn")
_LAST_BUT_ONE = {"res2": "layer1_1", "res3": "layer2_2", "res4": "layer3_4"}
_NON_LOCAL = {
    "strg_i3d_r101": ("layer2_1", "layer2_3", "layer3_6", "layer3_13", "layer3_20"),
    "strg_small": ("layer2_0", "layer3_0"),
}

# Where an option went, as rules for `rename`; with several places, to all of them.
_CLIP = (
    (r"snippet", "stack"),
    (r"^size$", "input.height input.width"),
    (r"^(num_frames|sample_fps|stride_frames|whole_video|boxes_per_frame)$", r"input.\1"),
    (r"^(flow_length|num_stacks|stack_layout|(max_)?stack_interval)$", r"input.\1"),
)
# `graph` is where the graph of RSTG is; an option that is in no rule is one of the head's.
_OPTIONS = (
    *_CLIP,
    (r"^(inflation|stem)$", r"backbone.\1"),
    (r"^res5_(stride|dilation)$", r"backbone.layer4_\1"),
    (r"^backbone_norm$", "backbone.norm"),
    (r"^(scales|num_stages|time_stages|attention|mask_non_edges|readout)$", r"graph.\1"),
    (r"^(position_maps|scalewise_update|node_batch_norm)$", r"graph.\1"),
    (r"^(moments|differences|context)$", r"graph.extras.\1"),
    (r"^(\w+)$", r"head.\1"),
    (r"^head\.pixels$", "normalize"),
)
_FUSED = (
    *_CLIP,
    (r"^batch_norm$", "frames.backbone.norm flow.backbone.norm"),
    (r"^(\w+)$", r"fusion.\1"),
    (r"^fusion\.flow_weight$", "flow_weight"),
)
_SCORED = (
    (r"^dropout$", "frames.head.dropout"),
    (r"^flow_dropout$", "flow.head.dropout"),
    (r"^width$", "frames.head.width flow.head.width"),
)
# What differs by the kind of model: the first whose pattern matches the architecture.
_BY_NAME = (
    (r"rstg_syncmnist", ((r"^width$", "backbone.width graph.width"), (r"^norm$", "graph.norm"))),
    (r"rstg_", ((r"^(width|norm)$", r"graph.\1"),)),
    (r"(mean|conv)_lstm$", ((r"^width$", "backbone.width head.width"),)),
    (r"i3d_(nl_)?digits_small", ((r"^width$", "backbone.resnet3d.width"),)),
    (r"i3d_(nl_)?digits", ((r"^width$", "backbone.width"),)),
    (r"strg_|i3d_|c2d_", ((r"^norm$", "backbone.norm"),)),
)


def upgrade_options(architecture: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and overrides for `create_model`, which refuses options that no part has, from an
    architecture and its flat options."""
    rest, nested = dict(options), dict[str, Any]()
    if architecture.startswith(_STREAMS):
        return architecture, _upgrade_streams(architecture, rest)
    graph = "head"
    if architecture.startswith(("rstg_i3d", "rstg_c2d")):
        graph = _place(architecture, rest, nested)
    if rest.pop("non_local", False):
        blocks = _NON_LOCAL.get(architecture)
        nested["inserted"] = {"type": "nonlocal"} | ({"blocks": blocks} if blocks else {})
    if "initialisation" in rest:
        _set(nested, f"{graph}.extras.he", rest.pop("initialisation") == "he")
    by_name = next((rules for name, rules in _BY_NAME if re.match(name, architecture)), ())
    for key, value in rest.items():
        _set(nested, rename(key, (*by_name, *_OPTIONS, (r"\bgraph\.", f"{graph}."))), value)
    return architecture, nested


def _place(architecture: str, rest: dict[str, Any], nested: dict[str, Any]) -> str:
    """Says where the graphs of a backbone stand, and returns the path of their options."""
    default = "vec" if architecture == "rstg_c2d_r50" else "res3-4"
    graph = {"scalewise_update": True, "norm": "layer"}
    placement = rest.pop("placement", default)
    if rest.get("residual_norm") == "layer":
        del rest["residual_norm"]
    if placement == "vec":
        nested |= {"inserted": None, "head": {"rstg": graph}}
        return "head.rstg"
    stages = ("res3", "res4") if placement == "res3-4" else (placement,)
    blocks = [_LAST_BUT_ONE[stage] for stage in stages]
    if architecture.endswith("small"):
        blocks = [f"{block[:-1]}0" for block in blocks]
    nested["inserted"] = {"type": "rstg", "blocks": blocks, "graph": graph}
    nested["head"] = {"rstg": None}
    return "inserted.graph"


def _upgrade_streams(architecture: str, rest: dict[str, Any]) -> dict[str, Any]:
    """The overrides of a model of frames and flow."""
    nested: dict[str, Any] = {}
    unused = {"spatial": "flow", "temporal": "frames"}.get(rest.pop("streams", "both"))
    if rest.get("stride_frames") is not None:
        nested["input"] = {"whole_video": False}
    if "flow_zero" in rest:
        std = 1 / 255 if "bn_inception" in architecture else 0.226
        _set(nested, "flow.normalize", {"mean": [rest.pop("flow_zero") / 255], "std": [std]})
    own = () if architecture.startswith("stpyramid") else _SCORED
    for key, value in rest.items():
        _set(nested, rename(key, (*own, *_FUSED)), value)
    return nested | ({unused: None} if unused else {})


def _set(nested: dict[str, Any], paths: str, value: Any) -> None:
    for path in paths.split():
        *parts, last = path.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value


def upgrade_config(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A `config.json`, with overrides for `create_model` as its options.

    Raises:
        RecipeError: it is not one that version 0.1 wrote.
    """
    architecture, flat = content.get("architecture"), content.get("options")
    spec = content.get("input_spec")
    if not (isinstance(architecture, str) and isinstance(flat, dict) and isinstance(spec, dict)):
        raise RecipeError(f"{where}: no config.json that vidgraph wrote; copy it again")
    name, overrides = upgrade_options(architecture, flat)
    overrides["input"] = overrides.get("input", {}) | upgrade_input(spec)
    kept = ("num_classes", "class_names", "multi_label", "version")
    rest = {key: content[key] for key in kept if key in content}
    return {**rest, "name": name, "options": overrides, "upgraded_from": architecture}


def upgrade_input(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The clip of a `config.json`."""
    rules = ((r"^num_segments$", "whole_video"), ("snippet", "stack"))
    found = {rename(key, rules): value for key, value in spec.items()}
    return found | {"whole_video": bool(found.get("whole_video"))}


_TENSORS = (
    # The backbone; one on the stem of digits stood beside it.
    (r"^backbone\.", "backbone.resnet3d."),
    (r"^stem\.", "backbone."),
    (r"^(backbone\.(?:resnet3d\.)?)stem\.conv\.", r"\1conv1."),
    (r"^(backbone\.(?:resnet3d\.)?)stem\.norm\.", r"\1bn1."),
    *numbered_layers(r"\bafter\.res{}_", "inserted.layer{}_"),
    *numbered_layers(r"\.res{}\.", ".layer{}."),
    *RESIDUAL_BLOCKS,
    # The head.
    (r"^on_top\.", "head.rstg."),
    (r"^(graph|classifier|lstm|reduce)\.", r"head.\1."),
    (r"\bcreate\.standardise\.", "extras.standardise."),
)
_STREAM_TENSORS = (
    (r"^spatial\.", "frames."),
    (r"^temporal\.", "flow."),
    (r"^(frames|flow)\.(classifier|lstm)\.", r"\1.head.\2."),
    (r"^(\w+\.backbone)\.", r"\1.network."),
    (r"\.network\.(conv1|bn1|layer\d|features)\.", r".network.timm.\1."),
    # The small network.
    (r"\.network\.conv\.", ".network.conv1."),
    (r"\.network\.norm\.", ".network.bn1."),
    *RESIDUAL_BLOCKS,
    # The pyramid.
    (r"^snippet_fusion\.", "stack_fusion."),
    (r"^attention\.merge\.", "guidance_fusion."),
    (r"^attention\.pool\.", "attention."),
)


def upgrade_tensor(name: str, architecture: str) -> str:
    """Today's name of a tensor of a model of version 0.1, or of the beginning of such a name."""
    return rename(name, _STREAM_TENSORS if architecture.startswith(_STREAMS) else _TENSORS)
