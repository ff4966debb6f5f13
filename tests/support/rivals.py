"""Versions of a state that were made apart from one another."""

from __future__ import annotations

from typing import Any

import msgspec

from tai_state.conflicts.rivals import Rival
from tai_state.values.clocks import VectorClock
from tai_state.values.json import encode
from tai_state.values.states import StateSnapshot, with_data

from .stores import GOVERNOR

A, B, C = "store-a", "store-b", "store-c"
Data = dict[str, Any] | None


def version(
    data: Data, clock: VectorClock, hlc: int = 0, number: int = 1, tip: str = "", state_id: str = "alice"
) -> Rival:
    """A version by hand; None stands for a deleted state."""
    unsaved = with_data(StateSnapshot.unsaved(GOVERNOR, state_id, {}), data)
    snapshot = msgspec.structs.replace(unsaved, version=number, causality=clock)
    return Rival(snapshot=snapshot, hlc=hlc, tip=tip or encode(clock))


def rivals(ours: Data, theirs: Data) -> tuple[Rival, Rival]:
    """Two concurrent versions, theirs the later one."""
    return version(ours, {A: 2, B: 1}, hlc=1, tip="ours"), version(theirs, {A: 1, B: 2}, hlc=2, tip="theirs")


def glue(earlier: Any, later: Any, base: Any) -> Any:
    """A strategy of one's own that depends on the order."""
    return [earlier, later, base]
