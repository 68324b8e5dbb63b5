"""Names and options of architectures: what is known, and what a wrong value says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
from torch import nn

from vidgraph.errors import RecipeError
from vidgraph.models import build as catalogue
from vidgraph.models.build import ARCHITECTURES, create_model, options_of
from vidgraph.records import InputSpec


@dataclass(frozen=True)
class Shape:
    """Options of a builder below."""

    rate: float = 1.0
    kind: Literal["round", "square"] = "round"
    sizes: tuple[int, ...] = (3, 2)
    limit: int | None = None
    norm: Literal["batch", "layer"] = "batch"


@dataclass(frozen=True)
class Other:
    """Has a field of the same name, with other values."""

    norm: Literal["frozen"] = "frozen"


def _build(
    num_classes: int = 3, width: int = 4, open_name: bool = False, **shape: Any
) -> nn.Module:
    model = nn.Linear(width, num_classes)
    model.input_spec = InputSpec(2, 4, 4, stride_frames=1)  # type: ignore[assignment]
    return model


@pytest.fixture(autouse=True)
def _builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "shapes", _build)
    monkeypatch.setitem(catalogue._OPEN, "shape", (Shape, Other))


def test_options_are_the_builders_arguments_and_the_fields_of_its_records() -> None:
    assert options_of("shapes") == {"width", "open_name", "rate", "kind", "sizes", "limit", "norm"}
    with pytest.raises(RecipeError, match="no architecture 'shape'; did you mean 'shapes'"):
        options_of("shape")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 2),
        ("rate", 0.5),
        ("kind", "square"),
        ("sizes", [4, 2, 1]),
        ("sizes", (4,)),
        ("limit", None),
        ("limit", 3),
        ("norm", "layer"),
        ("norm", "frozen"),
        ("open_name", True),
    ],
)
def test_values_of_the_right_type_are_taken(name: str, value: Any) -> None:
    assert create_model("shapes", **{name: value}).options == {name: value}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rate", "fast", "shapes: option 'rate' is a number, not 'fast'"),
        ("rate", True, "option 'rate' is a number, not True"),
        ("kind", "oval", "option 'kind' is one of round, square, not 'oval'"),
        ("sizes", [4, "b"], "option 'sizes' is a list of numbers, not [4, 'b']"),
        ("sizes", 4, "option 'sizes' is a list of numbers, not 4"),
        ("limit", "none", "option 'limit' is a whole number or null, not 'none'"),
        ("norm", "group", "option 'norm' is one of batch, layer or one of frozen, not 'group'"),
        ("width", 4.0, "option 'width' is a whole number, not 4.0"),
        ("open_name", "yes", "option 'open_name' is true or false, not 'yes'"),
        ("wdith", 4, "shapes has no option 'wdith'; did you mean 'width'?"),
    ],
)
def test_values_of_another_type_are_one_line(name: str, value: Any, words: str) -> None:
    with pytest.raises(RecipeError) as error:
        create_model("shapes", **{name: value})
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("architecture", "name", "value", "words"),
    [
        ("rstg_small", "width", 0, "option 'width' is a number of channels, at least 1, not 0"),
        (
            "conv_lstm_small",
            "conv_width",
            -3,
            "option 'conv_width' is a number of channels, at least 1, not -3",
        ),
        ("rstg_small", "num_stages", 0, "num_stages is 0; give at least 1, or time_stages only"),
        (
            "rstg_small",
            "scales",
            [],
            "scales are cells per side of each grid, at least 1, such as [3, 2, 1], not []",
        ),
        ("rstg_small", "scales", [3, 0], "not [3, 0]"),
        ("rstg_small", "num_classes", 0, "rstg_small needs at least one class"),
        ("rstg_small", "class_names", [], "rstg_small needs at least one class"),
        ("i3d_small", "stride_frames", 0, "stride_frames must be at least 1, not 0"),
        ("i3d_small", "num_frames", -8, "num_frames must be at least 1, not -8"),
        ("i3d_small", "sample_fps", 0, "sample_fps is frames per second of video, above 0, not 0"),
        ("stpyramid_small", "stride_frames", 0, "stride_frames must be at least 1, not 0"),
        (
            "stpyramid_small",
            "features",
            ["visul"],
            "option 'features' is a list with some of visual, attention, motion, not ['visul']",
        ),
    ],
)
def test_values_that_make_no_sense_are_one_line(
    architecture: str, name: str, value: Any, words: str
) -> None:
    with pytest.raises(RecipeError) as error:
        create_model(architecture, **{name: value})
    assert words in str(error.value)


def test_every_architecture_tells_its_options_with_types_that_can_be_checked() -> None:
    for name in ARCHITECTURES:
        for hints in catalogue._hints(name).values():
            assert all(catalogue._fits(hint, object()) is False for hint in hints)
            assert all(catalogue._in_words(hint) for hint in hints)


def test_size_of_the_small_graph() -> None:
    """Its stages share their weights, so one stage has the parameters of three, only not their
    cost.
    """
    one, three = create_model("rstg_small"), create_model("rstg_small", num_stages=3)
    assert [sum(p.numel() for p in model.parameters()) for model in (one, three)] == [518_526] * 2
    assert (one.graph.num_stages, three.graph.num_stages) == (1, 3)
