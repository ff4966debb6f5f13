"""Events that are missing at the beginning of a stream, and were not cleaned up, are missed by whoever reads them."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tai_state import EventSourcingError, EveryEvents, NotRetained, StateMachinePersister, StateStore, open_store
from tai_state.engines.api import Delete
from tai_state.history.cleanup import Cleanup
from tai_state.history.replay import Replay
from tai_state.streams.salvaging import sound_events

from ..support.stores import GOVERNOR, METADATA, collected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

VERSIONS = 9


@pytest.fixture
def anyio_backend() -> str:
    """What is found does not depend on the event loop."""
    return "asyncio"


@pytest.fixture
async def store() -> AsyncIterator[StateStore]:
    """Three states with nine versions each, and a snapshot every second one."""
    async with open_store("memory://", snapshots=EveryEvents(2, keep=9)) as store:
        for state in "abc":
            for n in range(VERSIONS):
                await store.save_state(GOVERNOR, state, {"n": n}, METADATA, expected=n, event_id=f"{state}{n}")
        yield store


async def remove(store: StateStore, *versions: int) -> None:
    """Remove events of the second state behind the store's back."""
    stream = store.core.layout.stream(GOVERNOR, "b")
    await store.core.engine.commit([Delete(stream.event(version)) for version in versions])


async def clean(store: StateStore) -> int:
    """Clean up all that may go; the first version that is left."""
    await Cleanup(store.core, Replay(store.core, {}), timedelta(0), timedelta(0)).run(GOVERNOR)
    return (await collected(store.get_events(GOVERNOR, "b")))[0].version


READS = {
    "get_events": lambda store: store.get_events(GOVERNOR, "b"),
    "get_events after": lambda store: store.get_events(GOVERNOR, "b", after=1),
    "get_events limit": lambda store: store.get_events(GOVERNOR, "b", limit=1),
    "get_events newest first": lambda store: store.get_events(GOVERNOR, "b", newest_first=True),
    "get_all_events": lambda store: store.get_all_events(GOVERNOR),
    "history": lambda store: store.state(GOVERNOR, "b").history(),
    "replay": lambda store: StateMachinePersister(store).replay(GOVERNOR, "b"),
}


@pytest.mark.parametrize("read", READS)
async def test_a_missing_beginning_is_missed(store: StateStore, read: str):
    """A read that begins there raises, and names an event that is missing."""
    await remove(store, 1, 2, 3)
    with pytest.raises(EventSourcingError, match=f"{GOVERNOR}/events/b~00000000000[123]': is missing: restore"):
        await collected(READS[read](store))


async def test_what_comes_before_it_is_read(store: StateStore):
    """All events of a governor: those of the streams before are given first."""
    await remove(store, 1, 2, 3)
    given: list[str] = []

    async def read() -> None:
        async for event in store.get_all_events(GOVERNOR):
            given.append(event.state_id)

    with pytest.raises(EventSourcingError):
        await read()
    assert given == ["a"] * VERSIONS


@pytest.mark.parametrize("read", READS)
async def test_a_beginning_that_was_cleaned_up_is_not_missed(store: StateStore, read: str):
    """A cleanup says up to where events may be gone."""
    oldest = await clean(store)
    assert oldest > 2
    if read == "replay":
        with pytest.raises(NotRetained):
            await collected(READS[read](store))
    else:
        assert await collected(READS[read](store))


async def test_events_missing_above_what_was_cleaned_up_are_missed(store: StateStore):
    """Only what is below the floor may be gone."""
    oldest = await clean(store)
    await remove(store, oldest)
    with pytest.raises(EventSourcingError, match=f"{oldest}': is missing: restore"):
        await collected(store.get_events(GOVERNOR, "b"))


async def test_a_list_that_goes_on_names_the_beginning_once(store: StateStore):
    """The events that are there follow."""
    await remove(store, 1, 2, 3)
    named: list[str] = []
    stream = store.core.layout.stream(GOVERNOR, "b")
    events = sound_events(store.core, stream, lambda error: named.append(error.path))
    assert [event.version async for event in events] == list(range(4, VERSIONS + 1))
    assert named == [stream.event(1)]


async def test_without_its_state_nobody_knows_where_a_stream_begins(store: StateStore):
    """Then what is there is given."""
    await clean(store)
    stream = store.core.layout.stream(GOVERNOR, "b")
    await store.core.engine.commit([Delete(stream.state)])
    assert await collected(store.get_events(GOVERNOR, "b"))


async def test_a_repeated_call_tells_missing_from_cleaned_up(store: StateStore):
    """A call that was made before, whose event is not there: the error says which of the two it is."""
    again = partial(store.save_state, GOVERNOR, "b", {"n": 6}, METADATA, expected=6, event_id="b6")
    first = partial(store.save_state, GOVERNOR, "b", {"n": 0}, METADATA, expected=0, event_id="b0")
    assert (await again()).version == VERSIONS - 2
    assert 1 < await clean(store) < VERSIONS - 2
    with pytest.raises(NotRetained, match="cleaned up since"):
        await first()
    await remove(store, VERSIONS - 2)
    with pytest.raises(EventSourcingError, match="is missing: restore a backup"):
        await again()
