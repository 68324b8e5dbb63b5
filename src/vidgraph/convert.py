"""Weights of other codebases, renamed and reshaped into ours: pure functions from arrays to a state
dict.

Nothing is guessed: every foreign variable must find its place, and every tensor of our model must
be filled.

Shapes: I inputs and O outputs of a layer, D width of an LSTM.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidgraph.errors import WeightsError

Array = NDArray[np.floating]

_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_LAYER = {"kernel": "weight", "bias": "bias"}

# Optimiser slots, counters and the fixed resize filters of a training checkpoint: nothing that a
# model of ours holds.
_NOT_WEIGHTS = re.compile(
    r"(^|/)(global_step|resize_filters\w*|\w*(Momentum|Adam|ExponentialMovingAverage)\w*)($|/)"
)

# Scopes around the names below: `backbone/` where the graph sits inside, and the graph's own, which
# tells its place.
_SCOPES = re.compile(r"^(backbone/)?(?P<graph>whole_graph_model_\w+/)?")


def convert_rstg_tensorflow(variables: Mapping[str, Array], model: nn.Module) -> dict[str, Tensor]:
    """The authors' TensorFlow 1 variables as a state dict of `model`.

    Kernels are [..., I, O] there and [O, I, ...] here. The first layer of their send MLP takes
    (source, destination) concatenated; ours is split into the two. Their LSTM is either a
    cuDNN-compatible cell (gates i, g, f, o, one bias), which is what a saved checkpoint holds, or
    the opaque buffer that cuDNN works on (gates i, f, g, o: input matrices, recurrent matrices, two
    biases).

    Args:
        variables: name -> value, as in a checkpoint (`conv0/conv2d/kernel`, with or without `:0`);
            where names start with `var:`, only those are taken. One graph at most.
        model: an `RSTG`, or its `RecurrentSpaceTimeGraph` alone; it says which tensors are wanted
            and is not changed.

    Raises:
        WeightsError: a variable that the model has no place for, a tensor that no variable fills,
            or another shape.
    """
    wanted = model.state_dict()
    prefix = "graph." if any(name.startswith("graph.") for name in wanted) else ""
    state = {
        name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")
    }  # TensorFlow does not count
    for foreign, value in _weights_only(variables):
        for name, tensor in _tensors(foreign, np.asarray(value, np.float32), prefix, wanted):
            if name not in wanted:
                raise WeightsError(
                    f"variable {foreign!r} would be {name!r}, which this model does not have; "
                    "build it with the options of the checkpoint"
                )
            if tensor.shape != wanted[name].shape:
                raise WeightsError(
                    f"variable {foreign!r}: {list(tensor.shape)} where {name!r} is "
                    f"{list(wanted[name].shape)}; use the checkpoint's width"
                )
            state[name] = tensor
    missing = [name for name in wanted if name not in state]
    if missing:
        raise WeightsError(
            f"no variable fills {', '.join(missing[:3])} ({len(missing)} of {len(wanted)} "
            "tensors); the checkpoint is of another model"
        )
    return {name: state[name] for name in wanted}


def _weights_only(variables: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    marked = {
        name.removeprefix("var:"): value
        for name, value in variables.items()
        if name.startswith("var:")
    } or variables
    named = {name.removesuffix(":0"): value for name, value in marked.items()}
    kept = {name: value for name, value in named.items() if not _NOT_WEIGHTS.search(name)}
    graphs = sorted(
        {match["graph"] for name in kept if (match := _SCOPES.match(name)) and match["graph"]}
    )
    if len(graphs) > 1:
        raise WeightsError(
            f"these variables hold {len(graphs)} graphs ({', '.join(graphs)}); convert them one "
            "at a time"
        )
    yield from kept.items()


def _tensors(
    foreign: str, value: Array, prefix: str, wanted: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Our tensors that one foreign variable becomes, by the first pattern that its name without
    scopes matches.
    """
    name = _SCOPES.sub("", foreign)
    for pattern, rule in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            for key, array in rule(match, value, wanted):
                yield (
                    (key if key.startswith(("stem.", "classifier.")) else prefix + key),
                    torch.from_numpy(np.ascontiguousarray(array)),
                )
            return
    raise WeightsError(
        f"variable {foreign!r} is none that RSTG on a vector has; leave it out, or convert it by "
        "hand"
    )


_Rule = Callable[[re.Match[str], Array, Mapping[str, Tensor]], Iterator[tuple[str, Array]]]


def _dense(target: str) -> _Rule:
    """A layer applied at every position, whatever its kernel's leading axes of size 1: [..., I, O]
    to [O, I].
    """

    def rule(
        match: re.Match[str], value: Array, _: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Array]]:
        name = f"{target}.{_LAYER[match['part']]}"
        yield name, value.reshape(value.shape[-2:]).T if match["part"] == "kernel" else value

    return rule


def _norm(target: str) -> _Rule:
    def rule(
        match: re.Match[str], value: Array, _: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Array]]:
        yield f"{target}.{_NORM[match['part']]}", value

    return rule


def _convolution(
    match: re.Match[str], value: Array, _: Mapping[str, Tensor]
) -> Iterator[tuple[str, Array]]:
    """[H, W, I, O] to [O, I, H, W]; each convolution of ours is followed by its ReLU and pool."""
    name = f"stem.layers.{3 * int(match['depth'])}.{_LAYER[match['part']]}"
    yield name, value.transpose(3, 2, 0, 1) if match["part"] == "kernel" else value


def _first_of_send(
    match: re.Match[str], value: Array, _: Mapping[str, Tensor]
) -> Iterator[tuple[str, Array]]:
    """[..., 2 I, O]: the source's rows come first, then the destination's, which keeps the bias."""
    if match["part"] == "bias":
        yield "space.send.destination.bias", value
        return
    source, destination = np.split(value.reshape(value.shape[-2:]).T, 2, axis=1)
    yield "space.send.source.weight", source
    yield "space.send.destination.weight", destination


def _update(
    match: re.Match[str], value: Array, wanted: Mapping[str, Tensor]
) -> Iterator[tuple[str, Array]]:
    """Both layers of the update MLP; with one MLP per scale, the type counts them from 1."""
    mlp = int(match["scale"] or 1) - 1
    yield from _dense(f"space.update.{mlp}.{2 * int(match['depth']) - 2}")(match, value, wanted)


def _lstm_cell(
    match: re.Match[str], value: Array, _: Mapping[str, Tensor]
) -> Iterator[tuple[str, Array]]:
    """Kernel [I + D, 4 D] and one bias [4 D], gates i, g, f, o; torch: two matrices and two biases,
    gates i, f, g, o.
    """
    gates = value.T.reshape(4, -1, *value.shape[:-1])[[0, 2, 1, 3]]  # [4, D, I + D], or [4, D]
    stacked = gates.reshape(-1, *value.shape[:-1])
    name = _LSTMS[match["when"]]
    if match["part"] == "bias":
        yield f"{name}.bias_ih_l0", stacked
        yield f"{name}.bias_hh_l0", np.zeros_like(stacked)
        return
    width = value.shape[1] // 4
    yield f"{name}.weight_ih_l0", stacked[:, :-width]
    yield f"{name}.weight_hh_l0", stacked[:, -width:]


def _lstm_opaque(
    match: re.Match[str], value: Array, wanted: Mapping[str, Tensor]
) -> Iterator[tuple[str, Array]]:
    """cuDNN's buffer of one layer: the four parts of torch's LSTM in torch's own order, end to
    end.
    """
    name = _LSTMS[match["when"]]
    ours = {own.removeprefix("graph."): tensor.shape for own, tensor in wanted.items()}
    keys = [f"{name}.{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    shapes = [ours[key] for key in keys if key in ours]
    sizes = [shape.numel() for shape in shapes]
    if sum(sizes) != value.size:
        raise WeightsError(
            f"variable {match.string!r}: {value.size} values where {name!r} has {sum(sizes)}; use "
            "the checkpoint's width"
        )
    for key, part, shape in zip(keys, np.split(value, np.cumsum(sizes)[:-1]), shapes, strict=True):
        yield key, part.reshape(shape)


_LSTMS = {"intern": "time.lstm", "extern": "final_time.lstm"}
_CELL = r"time_update_(?P<when>intern|extern)/cudnn_lstm\w*/"
_KERNEL_OR_BIAS = r"(?P<part>kernel|bias)"
_GAIN_OR_BIAS = r"(?P<part>gamma|beta)"

_RULES: tuple[tuple[str, _Rule], ...] = (
    (rf"conv(?P<depth>[012])/conv2d/{_KERNEL_OR_BIAS}", _convolution),
    (rf"pred/{_KERNEL_OR_BIAS}", _dense("classifier")),
    (rf"project_i3d/{_KERNEL_OR_BIAS}", _dense("project")),
    (rf"project_back_to_i3d/{_KERNEL_OR_BIAS}", _dense("project_back")),
    (
        r"batch_normalization/(?P<part>gamma|beta|moving_mean|moving_variance)",
        _norm("node_batch_norm"),
    ),
    (rf"before_graf_ln/{_GAIN_OR_BIAS}", _norm("node_norm")),
    (rf"send_messages_mlp/send_conv1/{_KERNEL_OR_BIAS}", _first_of_send),
    (rf"send_messages_mlp/send_conv2/{_KERNEL_OR_BIAS}", _dense("space.send.second")),
    (rf"send_messages_mlp/message_ln/{_GAIN_OR_BIAS}", _norm("space.send.norm")),
    (rf"(my_attn|dot_product_attn)/att_conv1/{_KERNEL_OR_BIAS}", _dense("space.attention.query")),
    (rf"(my_attn|dot_product_attn)/att_conv2/{_KERNEL_OR_BIAS}", _dense("space.attention.key")),
    (
        r"(my_attn|dot_product_attn)/att_bias/biases",
        lambda match, value, wanted: iter([("space.gather_bias", value)]),
    ),
    (rf"my_attn/att_ln/{_GAIN_OR_BIAS}", _norm("space.gather_norm")),
    (
        rf"update_node_mlp_?/update_conv(?P<depth>[12])(_type(?P<scale>[0-9]+))?/{_KERNEL_OR_BIAS}",
        _update,
    ),
    (rf"update_node_mlp_?/update_ln/{_GAIN_OR_BIAS}", _norm("space.update_norm")),
    (rf"{_CELL}(.*/)?cudnn_compatible_lstm_cell/{_KERNEL_OR_BIAS}", _lstm_cell),
    (rf"{_CELL}opaque_kernel", _lstm_opaque),
)
