"""How other codebases name the tensors of our networks: one table, for `vidgraph convert`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Rule = tuple[str, str]
CLASSIFIER = "head.classifier."


def rename(name: str, rules: Iterable[Rule]) -> str:
    """A name after all rules, each a pattern and what replaces it, one after another."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def numbered_layers(pattern: str, ours: str, numbers: str = "2345") -> list[Rule]:
    """One rule for each layer of a ResNet; {} is their number of it, {} in ours is 1 to 4."""
    return [(pattern.format(n), ours.format(i)) for i, n in enumerate(numbers, 1)]


# The parts of residual blocks, as version 0.1 and the codebases below call them.
RESIDUAL_BLOCKS = (
    (r"\.(?:shortcut|branch1|branch1_conv)\.", ".downsample.0."),
    (r"\.(?:shortcut|branch1)_(?:bn|norm)\.", ".downsample.1."),
    *((rf"\.(?:branch2\.?)?(?:conv_)?{x}\.", f".conv{i}.") for i, x in enumerate("abc", 1)),
    *(
        (rf"\.(?:branch2\.?)?(?:norm_)?{x}(?:_bn|_norm)?\.", f".bn{i}.")
        for i, x in enumerate("abc", 1)
    ),
)


@dataclass(frozen=True)
class Codebase:
    """Whose checkpoint it is, and how its tensors are called."""

    name: str  # for people
    mark: str  # a tensor that only these checkpoints have, without wrappers
    # Our name of a tensor in each part of a model that takes their weights; what stands before it
    # in a model is the part.
    anchor: str
    model: str  # that takes them where none is named
    # To names within the part, or of the whole model, which start with `head.` or `backbone.`
    rules: tuple[Rule, ...] = ()
    wrappers: str = r"(?:module\.|model\.)+"  # what may stand before their names
    ignored: Mapping[str, str] = field(default_factory=dict)  # pattern of a name -> why
    options: Mapping[str, Any] = field(default_factory=dict)  # of our models, for such weights
    # Of images: kernels are inflated for 3D networks and averaged over RGB for flow.
    images: bool = False

    def bare(self, foreign: str) -> str:
        """A name without what wrappers put before it, and TensorFlow's `:0` after it."""
        return re.sub(rf"^(?:{self.wrappers})|:0$", "", foreign)


def _images(name: str, mark: str, model: str) -> Codebase:
    """A network of images, whose tensors are called as ours."""
    head = r"(?:last_linear|fc|new_fc|fc_action|classifier|heads?|pre_logits)\..*"
    wrappers, ignored = r"(?:module\.|base_model\.)+", {head: "classifier of images"}
    options = {"normalize": "imagenet"}
    return Codebase(name, mark, mark, model, (), wrappers, ignored, options, images=True)


# 0.45 and 0.225 of [0, 1] are the Caffe2 networks' 114.75 and 57.375 of 255. The networks that
# PyTorchVideo and SlowFast publish take 8 frames 8 apart; the others' clips are not told by their
# weights.
_EIGHT_BY_EIGHT = {
    "input": {"num_frames": 8, "stride_frames": 8},
    "normalize": "kinetics",
    "backbone": {"stem": "padded", "layer4_stride": 2},
}
_RESNET_ANCHOR = "layer1.0.conv1.weight"
RSTG = Codebase(
    "RSTG's authors",
    "send_messages_mlp/send_conv2/kernel",
    "space.send.second.weight",
    "rstg_syncmnist",
    (
        *((rf"^conv{i}/conv2d/", f"backbone.layers.{3 * i}.") for i in range(3)),
        (r"^pred/", CLASSIFIER),
        (r"^project_i3d/", "project."),
        (r"^project_back_to_i3d/", "project_back."),
        (r"^batch_normalization/", "node_batch_norm."),
        (r"^before_graf_ln/", "node_norm."),
        (r"^send_messages_mlp/(source|destination)/", r"space.send.\1."),
        (r"^send_messages_mlp/send_conv2/", "space.send.second."),
        (r"^send_messages_mlp/message_ln/", "space.send.norm."),
        (r"^(my_attn|dot_product_attn)/att_conv1/", "space.attention.query."),
        (r"^(my_attn|dot_product_attn)/att_conv2/", "space.attention.key."),
        (r"^(my_attn|dot_product_attn)/att_bias/biases", "space.gather_bias"),
        (r"^my_attn/att_ln/", "space.gather_norm."),
        # With one MLP per scale, their type counts the scales from 1.
        *(
            (rf"^update_node_mlp_?/update_conv(\d)_type{i + 1}/", rf"update.{i}.\1/")
            for i in range(9)
        ),
        (r"^update_node_mlp_?/update_conv(\d)/", r"update.0.\1/"),
        (r"^update\.(\d+)\.1/", r"space.update.\1.0."),
        (r"^update\.(\d+)\.2/", r"space.update.\1.2."),
        (r"^update_node_mlp_?/update_ln/", "space.update_norm."),
        (r"^time_update_intern/", "time.lstm."),
        (r"^time_update_extern/", "final_time.lstm."),
        (r"\.(kernel|gamma)$", ".weight"),
        (r"\.beta$", ".bias"),
        (r"\.moving_mean$", ".running_mean"),
        (r"\.moving_variance$", ".running_var"),
    ),
    wrappers=r"(backbone/)?(whole_graph_model_\w+/)?",
    ignored={
        r"(.*/)?(global_step|resize_filters\w*)(/.*)?": "no weight",
        r".*(Momentum|Adam|ExponentialMovingAverage).*": "state of the optimiser",
    },
)
CODEBASES = (
    Codebase(
        "PyTorchVideo",
        "blocks.1.res_blocks.0.branch2.conv_a.weight",
        _RESNET_ANCHOR,
        "i3d_r50",
        (
            (r"^blocks\.0\.conv\.", "conv1."),
            (r"^blocks\.0\.norm\.", "bn1."),
            # The pool after the first layer is a block too.
            *numbered_layers(r"^blocks\.{}\.res_blocks\.", "layer{}.", "1345"),
            *RESIDUAL_BLOCKS,
            (r"^blocks\.6\.proj\.", CLASSIFIER),
        ),
        options=_EIGHT_BY_EIGHT,
    ),
    Codebase(
        "SlowFast",
        "s2.pathway0_res0.branch2.a.weight",
        _RESNET_ANCHOR,
        "i3d_r50",
        (
            (r"^s1\.pathway0_stem\.conv\.", "conv1."),
            (r"^s1\.pathway0_stem\.bn\.", "bn1."),
            *numbered_layers(r"^s{}\.pathway0_res", "layer{}."),
            *numbered_layers(r"^s{}\.pathway0_nonlocal", "inserted.layer{}_"),
            (r"^(inserted\.\w+)\.conv_", r"\1."),
            (r"^(inserted\.\w+)\.(?:bn|norm)\.", r"\1.out_norm."),
            *RESIDUAL_BLOCKS,
            (r"^head\.projection\.", CLASSIFIER),
        ),
        options=_EIGHT_BY_EIGHT,
    ),
    Codebase(
        "Something-Else",
        "layer1.0.conv1.0.weight",
        _RESNET_ANCHOR,
        "i3d_r50",
        (
            (r"\.conv(\d)\.0\.", r".conv\1."),
            (r"\.conv(\d)\.1\.", r".bn\1."),
            (r"\.shortcut\.", ".downsample."),
            (r"^(?:classifier|fc)\.", CLASSIFIER),
        ),
        wrappers=r"(?:module\.|i3D\.)+",
        options={"normalize": "imagenet", "backbone": {"stem": "valid", "layer4_stride": 1}},
    ),
    Codebase(
        "Caffe2 non-local network",
        "res2_0_branch2a_w",
        _RESNET_ANCHOR,
        "i3d_r50",
        (
            (r"_(?:w|s)$", ".weight"),
            (r"_b$", ".bias"),
            (r"_rm$", ".running_mean"),
            (r"_riv$", ".running_var"),  # the variance itself
            (r"^res_conv1_bn\.", "bn1."),
            (r"^res_conv1\.", "conv1."),
            *numbered_layers(r"^res{}_(\d+)_", r"layer{}.\1."),
            *numbered_layers(r"^nonlocal_conv{}_(\d+)_", r"inserted.layer{}_\1."),
            (r"^(inserted\.\w+)\.bn\.", r"\1.out_norm."),
            *RESIDUAL_BLOCKS,
            (r"^pred\.", CLASSIFIER),
        ),
        wrappers=r"gpu_\d+/",
        ignored={
            r".*_momentum": "momentum of the optimiser",
            r"lr|model_iter|epoch": "state of the training",
        },
        options={"normalize": "kinetics", "backbone": {"stem": "valid", "layer4_stride": 2}},
    ),
    _images("torchvision", _RESNET_ANCHOR, "i3d_r50"),
    _images("torchvision", "features.0.weight", "stpyramid_vgg16"),
    _images("BN-Inception", "conv1_7x7_s2.weight", "stpyramid_bn_inception"),
    RSTG,
)
