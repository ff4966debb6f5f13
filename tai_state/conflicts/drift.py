"""Hybrid clocks that are far ahead: a sync keeps them where they are. Pure."""

from __future__ import annotations

from typing import Final

from tai_state.conflicts.sides import Side
from tai_state.values.clocks import ClockOrder, compare

_HOUR_US: Final = 3_600_000_000

DRIFT_MAX_US: Final = 24 * _HOUR_US
"""How far a hybrid clock that a store takes over can be ahead of its own clock: a day."""


def drift(here: Side, there: Side) -> str:
    """What is wrong if one side would give the other a hybrid clock that is far ahead of the other's own clock.

    It would decide against all later changes, in every store that it reaches.
    """
    order = compare(here.clock, there.clock)
    gives = [(here, there)] if order is ClockOrder.AFTER else [(there, here)] if order is ClockOrder.BEFORE else []
    for giver, taker in gives or [(here, there), (there, here)]:
        now_us = taker.core.settings.clock.now_us()
        if giver.ahead_us(now_us) > DRIFT_MAX_US >= taker.ahead_us(now_us):
            hours = giver.ahead_us(now_us) // _HOUR_US
            return f"its hybrid clock is {hours} hours ahead of the clock of store {taker.core.store_id}: one was wrong"
    return ""
