"""What version 0.1 wrote, in today's words: flat options, clips, and names of tensors.

Version 0.1 had one flat mapping of options per architecture. Weights and recipes that it wrote go
on loading through the tables below, which change only when a name of today does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vidgraph.errors import RecipeError

_INPUT = {
    "num_segments": "whole_video",
    "num_snippets": "num_stacks",
    "snippet_interval": "stack_interval",
    "max_snippet_interval": "max_stack_interval",
    "snippet_layout": "stack_layout",
}
# Where an option went; with several places, to all of them. `graph` is where the graph of RSTG is.
_OPTIONS = {
    "size": "input.height input.width",
    **{
        key: f"input.{_INPUT.get(key, key)}"
        for key in (
            *("num_frames", "sample_fps", "stride_frames", "whole_video", "boxes_per_frame"),
            *("flow_length", "num_snippets", "snippet_interval", "max_snippet_interval"),
            "snippet_layout",
        )
    },
    "pixels": "normalize",
    "inflation": "backbone.inflation",
    "stem": "backbone.stem",
    "res5_stride": "backbone.layer4_stride",
    "res5_dilation": "backbone.layer4_dilation",
    "backbone_norm": "backbone.norm",
    **{
        key: f"graph.{key}"
        for key in (
            *("scales", "num_stages", "time_stages", "attention", "mask_non_edges", "readout"),
            *("position_maps", "scalewise_update", "node_batch_norm"),
        )
    },
    **{key: f"graph.extras.{key}" for key in ("moments", "differences", "context")},
}
# What else differs by the kind of model: the first whose pattern matches the architecture.
_BY_NAME: list[tuple[str, dict[str, str]]] = [
    (r"rstg_syncmnist", {"width": "backbone.width graph.width", "norm": "graph.norm"}),
    (r"rstg_", {"width": "graph.width", "norm": "graph.norm"}),
    (r"(mean|conv)_lstm$", {"width": "backbone.width head.width"}),
    (r"i3d_(nl_)?digits_small", {"width": "backbone.resnet3d.width"}),
    (r"i3d_(nl_)?digits", {"width": "backbone.width"}),
    (r"strg_|i3d_|c2d_", {"norm": "backbone.norm"}),
]
_LAST_BUT_ONE = {"res2": "layer1_1", "res3": "layer2_2", "res4": "layer3_4"}
_NON_LOCAL = {
    "strg_i3d_r101": ("layer2_1", "layer2_3", "layer3_6", "layer3_13", "layer3_20"),
    "strg_small": ("layer2_0", "layer3_0"),
}


_STREAMS = ("stpyramid", "two_stream", "lrcn")
_FUSION = {"snippet_fusion": "stack_fusion", "snippet_width": "stack_width"}
_FUSION |= {"snippet_post": "stack_post"}


def upgrade_options(architecture: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and overrides for `create_model`, from an architecture and its flat options.

    An option that is in none of the tables is one of the head's; `create_model` refuses those that
    no part has.
    """
    rest, nested = dict(options), dict[str, Any]()
    if architecture.startswith(_STREAMS):
        _upgrade_streams(architecture, rest, nested)
        return architecture, nested
    graph = "head"
    if architecture.startswith(("rstg_i3d", "rstg_c2d")):
        graph = _place(architecture, rest, nested)
    if rest.pop("non_local", False):
        blocks = _NON_LOCAL.get(architecture)
        nested["inserted"] = {"type": "nonlocal"} | ({"blocks": blocks} if blocks else {})
    if "initialisation" in rest:
        _set(nested, f"{graph}.extras.he", rest.pop("initialisation") == "he")
    by_name = next((table for name, table in _BY_NAME if re.match(name, architecture)), {})
    for key, value in rest.items():
        for path in {**_OPTIONS, **by_name}.get(key, f"head.{key}").split():
            _set(nested, re.sub(r"^graph\b", graph, path), value)
    return architecture, nested


def _place(architecture: str, rest: dict[str, Any], nested: dict[str, Any]) -> str:
    """Says where the graphs of a backbone stand, and returns the path of their options."""
    default = "vec" if architecture == "rstg_c2d_r50" else "res3-4"
    graph = {"scalewise_update": True, "norm": "layer"}
    placement = rest.pop("placement", default)
    if rest.get("residual_norm") == "layer":
        del rest["residual_norm"]
    if placement == "vec":
        nested["inserted"] = None
        nested["head"] = {"rstg": graph}
        return "head.rstg"
    stages = ("res3", "res4") if placement == "res3-4" else (placement,)
    blocks = [_LAST_BUT_ONE[stage] for stage in stages]
    if architecture.endswith("small"):
        blocks = [f"{block[:-1]}0" for block in blocks]
    nested["inserted"] = {"type": "rstg", "blocks": blocks, "graph": graph}
    nested["head"] = {"rstg": None}
    return "inserted.graph"


def _upgrade_streams(architecture: str, rest: dict[str, Any], nested: dict[str, Any]) -> None:
    """The same for models of frames and flow."""
    unused = {"spatial": "flow", "temporal": "frames"}.get(rest.pop("streams", "both"))
    if rest.get("stride_frames") is not None:
        nested["input"] = {"whole_video": False}
    if "flow_zero" in rest:
        std = 1 / 255 if "bn_inception" in architecture else 0.226
        _set(nested, "flow.normalize", {"mean": [rest.pop("flow_zero") / 255], "std": [std]})
    scored = {
        "dropout": "frames.head.dropout",
        "flow_dropout": "flow.head.dropout",
        "width": "frames.head.width flow.head.width",
        "flow_weight": "flow_weight",
    }
    own = {} if architecture.startswith("stpyramid") else scored
    own["batch_norm"] = "frames.backbone.norm flow.backbone.norm"
    for key, value in rest.items():
        common, fusion = _OPTIONS.get(key, ""), f"fusion.{_FUSION.get(key, key)}"
        paths = own.get(key) or (common if common.startswith("input") else fusion)
        for path in paths.split():
            _set(nested, path, value)
    if unused is not None:
        nested[unused] = None


def _set(nested: dict[str, Any], path: str, value: Any) -> None:
    *parts, last = path.split(".")
    for part in parts:
        nested = nested.setdefault(part, {})
    nested[last] = value


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
    found = {_INPUT.get(key, key): value for key, value in spec.items()}
    return found | {"whole_video": bool(found.get("whole_video"))}


def _block_tensors(block: str) -> Iterator[tuple[str, str]]:
    """What the parts of residual blocks, whose names match `block`, are called now."""
    for number, letter in enumerate("abc", start=1):
        yield rf"({block})\.{letter}\.", rf"\1.conv{number}."
        yield rf"({block})\.{letter}_norm\.", rf"\1.bn{number}."
    yield rf"({block})\.shortcut\.", r"\1.downsample.0."
    yield rf"({block})\.shortcut_norm\.", r"\1.downsample.1."


# Applied one after another.
_TENSORS = [
    # The backbone; one on the stem of digits stood beside it.
    (r"^backbone\.", "backbone.resnet3d."),
    (r"^stem\.", "backbone."),
    (r"^(backbone\.(?:resnet3d\.)?)stem\.conv\.", r"\1conv1."),
    (r"^(backbone\.(?:resnet3d\.)?)stem\.norm\.", r"\1bn1."),
    (r"\bafter\.res2_", "inserted.layer1_"),
    (r"\bafter\.res3_", "inserted.layer2_"),
    (r"\bafter\.res4_", "inserted.layer3_"),
    (r"\bafter\.res5_", "inserted.layer4_"),
    *((rf"\.res{i + 1}\.", f".layer{i}.") for i in range(1, 5)),
    *_block_tensors(r"\.layer\d\.\d+"),
    # The head.
    (r"^on_top\.", "head.rstg."),
    (r"^(graph|classifier|lstm|reduce)\.", r"head.\1."),
    (r"\bcreate\.standardise\.", "extras.standardise."),
]
_STREAM_TENSORS = [
    (r"^spatial\.", "frames."),
    (r"^temporal\.", "flow."),
    (r"^(frames|flow)\.(classifier|lstm)\.", r"\1.head.\2."),
    (r"^(\w+\.backbone)\.", r"\1.network."),
    (r"\.network\.(conv1|bn1|layer\d|features)\.", r".network.timm.\1."),
    # The small network.
    (r"\.network\.conv\.", ".network.conv1."),
    (r"\.network\.norm\.", ".network.bn1."),
    *_block_tensors(r"\.blocks\.\d+"),
    # The pyramid.
    (r"^snippet_fusion\.", "stack_fusion."),
    (r"^attention\.merge\.", "guidance_fusion."),
    (r"^attention\.pool\.", "attention."),
]


def upgrade_tensor(name: str, architecture: str) -> str:
    """Today's name of a tensor of a model of version 0.1, or of the beginning of such a name."""
    for pattern, replacement in _STREAM_TENSORS if architecture.startswith(_STREAMS) else _TENSORS:
        name = re.sub(pattern, replacement, name)
    return name
