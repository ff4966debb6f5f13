"""Watching states, and iterators that are left early or meet an engine that does not answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from tai_state import SerializationError, StateMachinePersister, StateStore, StoreTimeout
from tai_state.engines.api import Document, Engine, Reading, Scan
from tai_state.engines.paging import Paged, take
from tai_state.testing.checking import HANG_SECONDS
from tai_state.values.times import from_us

from ..support.accounts import Account, grow
from ..support.stores import GOVERNOR, METADATA, AroundEngine, Place, collected

pytestmark = pytest.mark.anyio


async def test_watch_shows_what_is_there_and_what_comes(place: Place):
    """Watching starts with the state as it is and goes on with each newest version, a deletion included."""
    async with place.store() as store, place.store() as other:
        await store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        async with store.watch(GOVERNOR, "alice", "bob") as changes:
            assert (await anext(changes)).data == {"n": 0}
            await store.update_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=1)
            assert (await anext(changes)).version == 2
            await store.save_state(GOVERNOR, "carol", {}, METADATA)
            await other.save_state(GOVERNOR, "bob", {"n": 5}, METADATA)
            newest = await anext(changes)
            assert (newest.state_id, newest.data) == ("bob", {"n": 5})
            await store.delete_state(GOVERNOR, "alice", METADATA, expected=2)
            gone = await anext(changes)
            assert (gone.state_id, gone.version, gone.deleted, gone.data) == ("alice", 3, True, None)


async def test_watch_a_whole_governor(store: StateStore):
    """Without ids all states of the governor are watched, those to come included, and only those."""
    await store.save_state(GOVERNOR, "a/b", {"n": 0}, METADATA)
    async with store.watch(GOVERNOR) as changes:
        assert (await anext(changes)).state_id == "a/b"
        await store.save_state("another", "x", {}, METADATA)
        await store.create_snapshot(GOVERNOR, "a/b")
        await store.save_state(GOVERNOR, "new", {}, METADATA)
        assert (await anext(changes)).state_id == "new"


async def test_a_watch_is_entered_once(store: StateStore):
    """Entering it a second time, in its block or after it, is a misuse that is told."""
    await store.save_state(GOVERNOR, "alice", {}, METADATA)
    watch = store.watch(GOVERNOR)
    async with watch as changes:
        with pytest.raises(RuntimeError, match="entered before"):
            await watch.__aenter__()
        assert (await anext(changes)).state_id == "alice"
    with pytest.raises(RuntimeError, match="entered before"):
        await watch.__aenter__()


async def test_a_watch_is_over_with_its_block(store: StateStore):
    """A step that is taken outside of the block is a misuse that is told, and does not wait for ever."""
    await store.save_state(GOVERNOR, "alice", {}, METADATA)
    async with store.watch(GOVERNOR) as changes:
        await anext(changes)
    with anyio.fail_after(HANG_SECONDS), pytest.raises(RuntimeError, match="the watch is over"):
        await anext(changes)


async def test_a_watching_handle_gives_models(store: StateStore):
    """A typed handle's watch gives models, and a deletion without one."""
    handle = store.state(GOVERNOR, "alice", Account)
    await handle.save(Account(owner="Alice"), METADATA)
    async with handle.watch() as changes:
        assert (await anext(changes)).data == Account(owner="Alice")
        await handle.delete(METADATA, expected=1)
        assert (await anext(changes)).deleted


async def test_breaking_off_an_iterator_leaves_nothing_behind(place: Place):
    """Every iterator of the store can be left after the first value, and the store goes on."""
    async with place.store(indexed=("n",)) as store:
        for state_id in ("alice", "bob"):
            await grow(store, state_id, 3)
        persister = StateMachinePersister(store)
        start, end = from_us(0), from_us(place.clock.now_us()) + timedelta(days=1)
        for iterator in (
            store.list_states(GOVERNOR),
            store.find_states(GOVERNOR, {}),
            store.get_events(GOVERNOR, "alice"),
            store.get_all_events(GOVERNOR),
            store.get_events_between(GOVERNOR, start, end),
            persister.replay(GOVERNOR, "alice"),
            store.state(GOVERNOR, "alice").history(),
            store.list_governors(),
        ):
            async for _ in iterator:
                break
        assert (await store.get_stats()).versions == 6


class _Flaky(AroundEngine):
    """Each second read, and each second page of a scan, gets no answer, once calls are counted."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.calls: Counter[str] | None = None

    def _call(self, verb: str) -> None:
        if self.calls is not None:
            self.calls[verb] += 1
            if self.calls[verb] % 2:
                raise StoreTimeout(verb, "BUSY")

    async def read(self, paths: Sequence[str]) -> Reading:
        """Each second one is answered."""
        self._call("read")
        return await self._engine.read(paths)

    def scan(self, scan: Scan) -> Paged[Document]:
        """Small pages."""
        documents = self._engine.scan(scan)

        async def fetch() -> list[Document] | None:
            self._call("scan")
            return await take(documents, 30) or None

        return Paged(fetch)


async def _insisting(values: AsyncIterator[Any]) -> list[Any]:
    """All that an iterator gives to somebody who asks again where there was no answer."""
    got: list[Any] = []
    while True:
        try:
            got.append(await anext(values))
        except StoreTimeout:
            continue
        except StopAsyncIteration:
            return got


@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.get_events_between(GOVERNOR, from_us(0), datetime(2999, 1, 1, tzinfo=UTC)),
        lambda store: store.get_all_events(GOVERNOR),
        lambda store: store.get_events(GOVERNOR, "alice"),
        lambda store: StateMachinePersister(store).replay(GOVERNOR, "alice"),
        lambda store: store.state(GOVERNOR, "alice").history(),
        lambda store: store.list_states(GOVERNOR),
        lambda store: store.find_states(GOVERNOR, {}),
        lambda store: store.list_governors(),
    ],
    ids=["between", "all", "events", "replay", "history", "states", "found", "governors"],
)
async def test_an_iterator_goes_on_where_there_was_no_answer(place: Place, read: Callable[..., AsyncIterator[Any]]):
    """Asked again after an error that passes, an iterator gives what comes next: nothing is lost, nothing doubled."""
    async with place.store() as store:
        for state_id in ("alice", "bob"):
            await grow(store, state_id, 65)
        expected = await collected(read(store))
    flaky = _Flaky(place.engine())
    async with place.store(flaky) as store:
        flaky.calls = Counter()
        assert await _insisting(read(store)) == expected


async def test_a_watch_goes_on_where_there_was_no_answer(place: Place):
    """A step that gets no answer, or is cancelled, has taken nothing: the next one gives what it would have given."""
    flaky = _Flaky(place.engine())
    async with place.store(flaky) as store:
        for state_id in ("alice", "bob"):
            await store.save_state(GOVERNOR, state_id, {"n": 0}, METADATA)
        flaky.calls = Counter()
        async with store.watch(GOVERNOR) as changes:
            with pytest.raises(StoreTimeout):
                await anext(changes)
            assert {(await anext(changes)).state_id, (await anext(changes)).state_id} == {"alice", "bob"}
            with anyio.move_on_after(0):
                await anext(changes)
            await store.update_state(GOVERNOR, "bob", {"n": 1}, METADATA, expected=1)
            with pytest.raises(StoreTimeout):
                await anext(changes)
            assert (await anext(changes)).data == {"n": 1}


async def test_a_state_that_does_not_fit_is_an_error_in_its_place(store: StateStore):
    """A version that does not fit the model is an error of its step, and the watch goes on with the next one."""
    handle = store.state(GOVERNOR, "alice", Account)
    await store.save_state(GOVERNOR, "alice", {"strange": 1}, METADATA)
    async with handle.watch() as changes:
        with pytest.raises(SerializationError):
            await anext(changes)
        await handle.save(Account(owner="Alice"), METADATA, expected=1)
        assert (await anext(changes)).data == Account(owner="Alice")
