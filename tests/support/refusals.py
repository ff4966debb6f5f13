"""Calls that must be refused: how, and what must be left as it was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tai_state import ANY, InvalidData, StateMachinePersister, StateSnapshot, StateStore, TaiStateError
from tai_state.errors import DocumentTooLarge

from .stores import GOVERNOR, METADATA, CountingEngine, Place, dump

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SECRET = "correct-horse-battery-staple"
REDUCERS = {"add": lambda state, event: {"n": (state or {"n": 0})["n"] + event.payload}}


def persister_of(store: StateStore) -> StateMachinePersister:
    """The store's persister, with reducers."""
    return StateMachinePersister(store, REDUCERS)


def unsaved(governor: Any, state: Any) -> StateSnapshot[dict[str, Any]]:
    """A state of that name that was not saved yet."""
    return StateSnapshot.unsaved(governor, state, {"n": 1})


async def refused(
    place: Place, *calls: Callable[[StateStore], Awaitable[Any]], kind: type[TaiStateError] = InvalidData
) -> list[TaiStateError]:
    """The errors of calls on a store with one state: of this kind, one plain sentence each, and nothing was sent."""
    engine = CountingEngine(place.engine())
    errors: list[TaiStateError] = []
    async with place.store(engine, indexed=("n",)) as store:
        await store.update_state(GOVERNOR, "s", {"n": 1}, METADATA, expected=ANY)
        before = await dump(engine)
        for call in calls:
            engine.reset()
            with pytest.raises(TaiStateError) as caught:
                await call(store)
            if kind is not DocumentTooLarge:  # the engine itself knows its limit, and says so before it sends anything
                assert engine.counts.commits == []
            assert await dump(engine) == before
            errors.append(caught.value)
    for error in errors:
        assert type(error) is kind, repr(error)
        assert len(str(error)) < 400
        assert str(error).isprintable()
        assert SECRET not in str(error)
        assert SECRET not in str(error.fields())
    return errors


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return [each.name for each in folder.iterdir()]
