"""What a wrong answer costs, and which outputs are equal."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest

from clipper_platform.core.answers import equality_key
from clipper_platform.core.losses import LossError, checked_losses, loss

HUGE = 10**400  # beyond the range of floats


@pytest.mark.parametrize(
    ("label", "output"),
    [
        (1, 1.0), ("1", "1"), (None, None), (True, True), ([1, [2.0]], [1.0, [2]]), ((1, 2), [1, 2]), (b"x", b"x"),
        ({"a": 1, "b": [None]}, {"b": [None], "a": 1.0}), (math.nan, math.nan), (HUGE, HUGE),
        (datetime.date(2026, 1, 2), datetime.date(2026, 1, 2)),
    ],
)  # fmt: skip
def test_equal_outputs_cost_nothing(label: Any, output: Any) -> None:
    assert loss("zero_one", label, output) == 0.0


@pytest.mark.parametrize(
    ("label", "output"),
    [
        (1, True), (0, False), (0, None), (1, "1"), ("a", b"a"), ([1], 1), ([1, 2], [2, 1]), ([], {}), ([[]], []),
        ({"a": 1}, {"a": 2}), ({"a": 1}, {"b": 1}), (math.nan, 1.0), (datetime.date(2026, 1, 2), "2026-01-02"),
    ],
)  # fmt: skip
def test_other_outputs_cost_everything(label: Any, output: Any) -> None:
    assert loss("zero_one", label, output) == 1.0
    assert loss("zero_one", output, label) == 1.0
    assert equality_key(label) != equality_key(output)


@pytest.mark.parametrize(
    ("name", "label", "output", "scale", "expected"),
    [
        ("absolute", 3, 2.5, 1.0, 0.5),
        ("absolute", 3, 2.5, 10.0, 0.05),
        ("absolute", 3, -100, 1.0, 1.0),
        ("absolute", [0.0, 1.0], [0.5, 1.0], 1.0, 0.25),
        ("absolute", [[0], [1]], [[1], [50]], 1.0, 1.0),
        ("squared", 3, 2.5, 1.0, 0.25),
        ("squared", 30, 25, 10.0, 0.25),
        ("squared", 1e308, -1e308, 1.0, 1.0),
    ],
)
def test_a_loss_by_difference_is_scaled_and_at_most_1(
    name: str, label: Any, output: Any, scale: float, expected: float
) -> None:
    assert loss(name, label, output, scale) == pytest.approx(expected)


@pytest.mark.parametrize("output", ["3", None, True, [3.0], [], {}, math.nan, math.inf, HUGE])
@pytest.mark.parametrize("name", ["absolute", "squared"])
def test_an_output_that_is_no_number_of_the_labels_shape_is_the_models_mistake(name: str, output: Any) -> None:
    assert loss(name, 3.0, output) == 1.0


@pytest.mark.parametrize("label", ["3", None, True, [], [[]], [1, "2"], {}, math.nan, -math.inf, HUGE])
@pytest.mark.parametrize("name", ["absolute", "squared"])
def test_a_label_that_is_no_number_is_the_clients_mistake(name: str, label: Any) -> None:
    with pytest.raises(LossError, match=f"'{name}' needs a finite number"):
        loss(name, label, 3.0)


@pytest.mark.parametrize("label", [0, 0.25, 1])
def test_a_reported_loss_is_the_label(label: float) -> None:
    assert loss("reported", label, "anything") == label


@pytest.mark.parametrize("label", [-0.1, 1.1, math.nan, math.inf, True, "0.5", None, [0.5]])
def test_a_reported_loss_is_between_0_and_1(label: Any) -> None:
    with pytest.raises(LossError, match="a reported loss must be a number between 0 and 1, not"):
        loss("reported", label, "anything")
    with pytest.raises(LossError, match="the loss of p/f must be a number"):
        checked_losses({"p/g": 0.5, "p/f": label})


def test_an_unknown_loss_is_refused_with_those_that_exist() -> None:
    with pytest.raises(LossError, match="no loss 'hinge': use one of zero_one, absolute, squared, reported"):
        loss("hinge", 1, 1)
