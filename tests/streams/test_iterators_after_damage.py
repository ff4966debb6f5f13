"""An iterator that meets a damaged document goes on behind it, or raises again: it never skips a sound one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tai_state import CorruptDocument, EventSourcingError, StateStore
from tai_state.engines.api import Engine, Put

from ..support.iterating import ITERATORS, injected, name_of
from ..support.stores import GOVERNOR, Places, collected, fields_at

pytestmark = pytest.mark.anyio

ERRORS_MAX = 5


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is checked is checked above the engines."""
    return "asyncio"


@pytest.fixture
async def store(memory_places: Places) -> AsyncIterator[StateStore]:
    """A filled store, which reads in small pages."""
    async with injected(memory_places.new()) as (store, _):
        yield store


async def damage(engine: Engine, path: str) -> None:
    """Take a field away without which a document cannot be read."""
    fields = await fields_at(engine, path)
    del fields["hlc"]
    await engine.commit([Put(path, fields)])


DAMAGED = {
    "StateStore.list_states": "states/s4",
    "StateStore.find_states": "states/s4",
    "StateStore.get_all_events": "events/s4~000000000001",
    "StateStore.get_events_between": "events/s4~000000000001",
    "StateStore.get_events": "events/s0~000000000005",
    "StateHandle.history": "events/s0~000000000005",
    "PersistentMachine.history": "events/s0~000000000005",
    "AdaptedMachine.history": "events/s0~000000000005",
    "StateMachinePersister.replay": "events/s0~000000000005",
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_after_a_damaged_item(store: StateStore, name: str) -> None:
    """An iterator that met a damaged document gives all sound ones when asked again, or raises again, and names it."""
    path = f"governors/{GOVERNOR}/{DAMAGED[name]}"
    whole = [name_of(each) for each in await collected(ITERATORS[name](store))]
    await damage(store.core.engine, path)
    items, got, named = ITERATORS[name](store), [], []
    has_ended = False
    while not has_ended and len(named) < ERRORS_MAX:
        try:
            got.append(name_of(await anext(items)))
        except StopAsyncIteration:
            has_ended = True
        except (CorruptDocument, EventSourcingError) as error:
            named.append(error.path)
    assert set(named) == {path}
    missed = [each for each in whole if each not in got]
    assert len(missed) == 1 if has_ended else got == whole[: len(got)]


@pytest.mark.parametrize("name", ["StateStore.list_states", "StateStore.get_events"])
async def test_items_and_pages_from_one_iterator(store: StateStore, name: str) -> None:
    """After some items the next page is what is left of theirs, so that nothing is skipped between them."""
    whole = await collected(ITERATORS[name](store))
    items: Any = ITERATORS[name](store)
    got = [await anext(items)]
    while (page := await items.page()) is not None:
        got += page
    assert got == whole
