"""Options of a store that mean nothing: refused where they are given, not where they first hurt."""

from __future__ import annotations

from math import nan
from typing import Any

import pytest

from tai_state import TaiStateError, Upcast, open_store


def older(data: Any) -> Any:
    """A step from one schema to the next, not wrapped as one."""
    return data


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"schema": 2}, id="no_upcaster"),
        pytest.param({"upcasters": {1: Upcast()}}, id="upcaster_to_nowhere"),
        pytest.param({"snapshots": 100}, id="no_policy"),
        *(
            pytest.param(options, id=name)
            for name, options in {
                "function_as_upcaster": {"schema": 2, "upcasters": {1: older}},
                "upcast_of_no_function": {"schema": 2, "upcasters": {1: Upcast(state=3)}},  # type: ignore[arg-type]
                "schema_0": {"schema": 0},
                "schema_below_0": {"schema": -1},
                "schema_true": {"schema": True},
                "timeout_below_0": {"timeout_seconds": -1},
                "timeout_nan": {"timeout_seconds": nan},
                "timeout_text": {"timeout_seconds": "30"},
                "indexed_number": {"indexed": (3,)},
                "clock_number": {"clock": 3},
            }.items()
        ),
    ],
)
def test_an_option_that_means_nothing_is_refused(options: dict[str, Any]):
    """Nothing is opened with it: the call that gives it says what is wrong."""
    with pytest.raises((ValueError, TypeError, TaiStateError)):
        open_store("memory://", **options)


@pytest.mark.parametrize("options", [{"schema": None}, {"schema": 1}, {"timeout_seconds": 0}, {"indexed": "status"}])
def test_an_unusual_option_that_means_something_is_taken(options: dict[str, Any]):
    """Data as it is stored, one look and no second one, a single index: all of these are wanted by somebody."""
    assert open_store("memory://", **options)
