"""What a caller may expect of a state."""

from __future__ import annotations

from typing import Any

import pytest

from tai_state import InvalidData, StateSnapshot
from tai_state.values.expected import ANY, EXISTS, NO_STATE, expectation, matches


@pytest.mark.parametrize(
    ("expected", "fitting"),
    [
        (0, {(0, False)}),
        (2, {(2, False), (2, True)}),
        (NO_STATE, {(0, False), (1, True), (2, True)}),
        (EXISTS, {(1, False), (2, False)}),
        (ANY, {(0, False), (1, False), (1, True), (2, False), (2, True)}),
    ],
    ids=str,
)
def test_what_fits_an_expectation(expected: Any, fitting: set[tuple[int, bool]]):
    """Which states each expectation means."""
    standings = {(0, False), (1, False), (1, True), (2, False), (2, True)}
    assert {each for each in standings if matches(expectation(expected, "g", "s"), each[0], deleted=each[1])} == fitting


def test_a_snapshot_is_expected_by_its_version():
    """A snapshot that was read stands for the version inside it."""
    assert expectation(StateSnapshot.unsaved("g", "s", {}), "g", "s") == 0
    for other in (("g", "t"), ("h", "s")):
        with pytest.raises(InvalidData, match="another state"):
            expectation(StateSnapshot.unsaved("g", "s", {}), *other)
