"""Models of synchronous digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from vidgraph.backbones.digits import simple_c2d, strided_stem
from vidgraph.backbones.resnet3d import DEPTHS, Pool, ResNet3D, Stem, stage_channels
from vidgraph.models.nonlocal_block import NonLocalBlock
from vidgraph.models.normalize import PixelNorm
from vidgraph.models.pooled import EvidenceClassifier, PooledClassifier
from vidgraph.models.recurrent import ConvLSTM, MeanLSTM
from vidgraph.models.rstg import GraphOptions, RecurrentSpaceTimeGraph
from vidgraph.models.rstg_models import RSTG
from vidgraph.models.stemmed import StemmedClassifier
from vidgraph.records import InputSpec

DIGIT_CLIP = InputSpec(num_frames=10, height=64, width=64, channels=1, stride_frames=1)
_DIGIT_IMAGE = InputSpec(num_frames=1, height=64, width=64, channels=1, stride_frames=1)


def digit_pixels() -> PixelNorm:
    """The pixel normalisation of models on the strided stem."""
    return PixelNorm(mean=[0.1], std=[0.25])


def _raw_pixels() -> PixelNorm:
    """0 to 255 as they are: the authors' preprocessing only casts."""
    return PixelNorm(mean=[0.0], std=[1 / 255])


def rstg_syncmnist(num_classes: int = 46, width: int = 512, **graph: Any) -> RSTG:
    """RSTG on synchronous digits at the size of the paper and its authors' configuration
    (positional variant, 10.57 M parameters).

    Args:
        num_classes: pairs of digits and "none".
        width: of the stem's filters, the nodes and the messages.
        **graph: fields of `GraphOptions` that differ from the authors' configuration.
    """
    options = GraphOptions(
        **{"attention": "simple", "position_maps": True, "node_batch_norm": True, **graph}
    )
    stem = simple_c2d(width)
    layer = RecurrentSpaceTimeGraph(stem.out_channels, width, stem.map_size, options)
    return RSTG(DIGIT_CLIP, _raw_pixels(), stem, layer, num_classes)


def rstg_small(num_classes: int = 46, width: int = 96, **graph: Any) -> RSTG:
    """RSTG on synchronous digits for a CPU: a strided stem, one space stage, attention over true
    neighbours, and nodes that hold moments, differences and context.

    One stage (time, space, time) and not three: it learns the task in a fraction of the clips that
    three need (docs/results.md).

    Args:
        num_classes: pairs of digits and "none".
        width: of nodes and messages.
        **graph: fields of `GraphOptions` that differ from this size's own.
    """
    own: dict[str, Any] = {
        "num_stages": 1,
        "mask_non_edges": True,
        "position_maps": True,
        "moments": True,
        "differences": True,
        "context": True,
        "initialisation": "he",
    }
    stem = strided_stem()
    layer = RecurrentSpaceTimeGraph(
        stem.out_channels, width, stem.map_size, GraphOptions(**{**own, **graph})
    )
    return RSTG(DIGIT_CLIP, digit_pixels(), stem, layer, num_classes)


def mean_lstm(num_classes: int = 46, width: int = 512) -> MeanLSTM:
    """Mean + LSTM on the stem of the paper."""
    stem = simple_c2d(width)
    return MeanLSTM(DIGIT_CLIP, _raw_pixels(), stem, stem.out_channels, width, num_classes)


def mean_lstm_small(num_classes: int = 46, width: int = 240) -> MeanLSTM:
    """Mean + LSTM on the strided stem, with about as many parameters as `rstg_small`."""
    stem = strided_stem()
    return MeanLSTM(DIGIT_CLIP, digit_pixels(), stem, stem.out_channels, width, num_classes)


def conv_lstm(num_classes: int = 46, width: int = 512, conv_width: int = 448) -> ConvLSTM:
    """Conv + LSTM on the stem of the paper. Its widths are not published; these give it as many
    parameters as `rstg_syncmnist`.
    """
    return ConvLSTM(DIGIT_CLIP, _raw_pixels(), simple_c2d(width), conv_width, width, num_classes)


def conv_lstm_small(num_classes: int = 46, width: int = 208, conv_width: int = 64) -> ConvLSTM:
    """Conv + LSTM on the strided stem, with about as many parameters as `rstg_small`."""
    return ConvLSTM(DIGIT_CLIP, digit_pixels(), strided_stem(), conv_width, width, num_classes)


def digit_stem(num_classes: int = 10) -> EvidenceClassifier:
    """Still digits at random places, to pre-train the strided stem."""
    return EvidenceClassifier(
        _DIGIT_IMAGE, digit_pixels(), strided_stem(num_evidence=num_classes), num_classes
    )


# ---- I3D on synchronous digits: "a smaller ResNet", of which the RSTG paper tells no more; the
# sizes are ours

_DIGIT_STEM = Stem(
    stride=(1, 2, 2), pool1=Pool()
)  # 64 x 64 pixels to 32 x 32 cells in res2; half of the frames after it
_MAP_STEM = Stem(
    kernel=(3, 3, 3), stride=(1, 1, 1), pool1=Pool()
)  # all 8 x 8 cells of the strided stem's map
_SMALL_DEPTHS = (1, 2, 1, 1)


def _digit_non_local(width: int, depths: Sequence[int]) -> dict[tuple[str, int], nn.Module]:
    """One block in the second residual stage, before its last residual block. These maps are too
    small to pool what is looked at.
    """
    return {("res3", depths[1] - 2): NonLocalBlock(stage_channels(width)["res3"], pool=False)}


def _i3d_digits(
    num_classes: int, width: int, after: Mapping[tuple[str, int], nn.Module]
) -> PooledClassifier:
    backbone = ResNet3D(DEPTHS[50], stem=_DIGIT_STEM, width=width, in_channels=1, after=after)
    return PooledClassifier(
        DIGIT_CLIP, digit_pixels(), backbone, backbone.out_channels, num_classes
    )


def _i3d_digits_small(
    num_classes: int, width: int, after: Mapping[tuple[str, int], nn.Module]
) -> StemmedClassifier:
    stem = strided_stem()
    backbone = ResNet3D(
        _SMALL_DEPTHS, stem=_MAP_STEM, width=width, in_channels=stem.out_channels, after=after
    )
    return StemmedClassifier(DIGIT_CLIP, digit_pixels(), stem, backbone, num_classes)


def i3d_digits(num_classes: int = 46, width: int = 40) -> PooledClassifier:
    """I3D on synchronous digits: ResNet-50 narrowed until it has as many parameters as
    `rstg_syncmnist`.
    """
    return _i3d_digits(num_classes, width, {})


def i3d_nl_digits(num_classes: int = 46, width: int = 40) -> PooledClassifier:
    """`i3d_digits` with one non-local block in its second residual stage."""
    return _i3d_digits(num_classes, width, _digit_non_local(width, DEPTHS[50]))


def i3d_digits_small(num_classes: int = 46, width: int = 12) -> StemmedClassifier:
    """Five residual blocks on the strided stem, with about as many parameters as `rstg_small`.

    On the whole stem and not from pixels, so that the pre-trained stem gives it what it gives the
    other small models.
    """
    return _i3d_digits_small(num_classes, width, {})


def i3d_nl_digits_small(num_classes: int = 46, width: int = 12) -> StemmedClassifier:
    """`i3d_digits_small` with one non-local block in its second residual stage."""
    return _i3d_digits_small(num_classes, width, _digit_non_local(width, _SMALL_DEPTHS))
