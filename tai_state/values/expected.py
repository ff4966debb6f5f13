"""What version a writer believes a state to have."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeAlias

from tai_state.errors import InvalidData
from tai_state.values.ids import VERSION_MAX
from tai_state.values.states import DeletedState, StateSnapshot


class Expectation(Enum):
    """An expectation that does not name a version."""

    NO_STATE = "no state"
    EXISTS = "an existing state"
    ANY = "any version"


NO_STATE = Expectation.NO_STATE
"""The state was never written, or is deleted."""
EXISTS = Expectation.EXISTS
"""The state exists and is not deleted; it may be at any version."""
ANY = Expectation.ANY
"""Anything. The last writer wins, on purpose."""

Expected: TypeAlias = int | StateSnapshot[Any] | DeletedState | Expectation
"""A version, a state as it was read, or one of NO_STATE, EXISTS and ANY."""


def expectation(expected: Expected, governor_id: str, state_id: str) -> int | Expectation:
    """The expectation for a state, as a version or an :class:`Expectation`.

    Raises:
        InvalidData: ``expected`` is not an expectation, or is a snapshot of another state.
    """
    if type(expected) is int and 0 <= expected <= VERSION_MAX:
        return expected
    if isinstance(expected, StateSnapshot | DeletedState):
        if (expected.governor_id, expected.state_id) != (governor_id, state_id):
            raise InvalidData(
                f"expected is a snapshot of another state, {expected.governor_id!r} {expected.state_id!r}"
            )
        return expected.version
    if isinstance(expected, Expectation):
        return expected
    raise InvalidData("expected must be a version from 0 up, a state as it was read, NO_STATE, EXISTS or ANY")


def matches(expected: int | Expectation, version: int, *, deleted: bool) -> bool:
    """Whether a state at this version (0: never written) meets the writer's expectation."""
    if type(expected) is int:  # nearly always
        return expected == version
    if expected is NO_STATE:
        return deleted or version == 0
    if expected is EXISTS:
        return version > 0 and not deleted
    return expected is ANY
