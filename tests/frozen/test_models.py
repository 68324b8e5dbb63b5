"""Models are those of version 0.1: their tensors, logits under fixed weights, and first losses."""

from __future__ import annotations

import numpy as np
import pytest
from frozen import adapter, record


@pytest.mark.parametrize("name", adapter.OPTIONS)
def test_size_and_input_as_published(name: str) -> None:
    expected, model = record.load("sizes")[name], adapter.build_empty(name)
    assert adapter.same_input(model, expected.pop("input_spec"))
    assert record.sizes(model) == expected


@pytest.mark.parametrize("name", adapter.OPTIONS)
def test_weights_of_the_first_version_give_the_same_logits(name: str) -> None:
    """Fails too where a tensor of version 0.1 has no place of its shape, or one here gets none."""
    expected = np.array(record.load("logits")[name])
    atol = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(record.logits(name), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", adapter.ROWS)
def test_losses_of_twenty_steps(name: str) -> None:
    """Rounding, which differs between processors, grows from step to step."""
    expected, found = record.load("losses")[name], record.losses(name)
    np.testing.assert_allclose(found[:10], expected[:10], rtol=1e-5)
    np.testing.assert_allclose(found[10:], expected[10:], rtol=1e-4)
