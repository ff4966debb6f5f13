"""States that a sync does not come upon, because neither store has their documents."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from tai_state.errors import Inconsistent
from tai_state.history.survey import lost_states
from tai_state.streams.core import Core
from tai_state.streams.reader import lost_state_error

_LISTED_MAX: Final = 1_000


async def lost_unseen(first: Core, second: Core, governor_id: str) -> list[Inconsistent]:
    """What is wrong with the states that one store has lost, and that the other one does not have; at most 1,000.

    Those that the other store has are found by their documents there.
    """
    errors: list[Inconsistent] = []
    for core, other in ((first, second), (second, first)):
        async with aclosing(lost_states(core, governor_id)) as lost:
            async for stream in lost:
                there = other.layout.stream(governor_id, stream.state_id).state
                if len(errors) < _LISTED_MAX and (await other.engine.read([there])).documents == (None,):
                    errors.append(lost_state_error(stream))
    return errors
