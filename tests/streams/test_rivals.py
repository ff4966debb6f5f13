"""Several stores on the same documents: what is stale is refused, and no change is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio
import msgspec
import pytest

from tai_state import StateNotFound, StateStore, VersionConflict
from tai_state.engines.api import Engine

from ..support.accounts import grow
from ..support.stores import GOVERNOR, METADATA, AroundEngine, Place, collected

pytestmark = pytest.mark.anyio


async def test_two_stores_with_stale_heads(place: Place):
    """A store that remembers an old head is told of a conflict, with what it had not seen, and can then go on."""
    async with place.store() as one, place.store() as other:
        await one.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        seen = await other.get_state(GOVERNOR, "alice")
        await one.update_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=1)
        await one.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=2, action="raise")
        with pytest.raises(VersionConflict) as conflict:
            await other.update_state(GOVERNOR, "alice", {"n": 9}, METADATA, expected=seen)
        unseen = await collected(one.get_events(GOVERNOR, "alice", after=1))
        assert list(conflict.value.events) == unseen
        assert conflict.value.fields() == {
            "path": "governors/bank/states/alice",
            "expected": 1,
            "actual": 3,
            "events": [{"version": event.version, "id": event.event_id, "action": event.action} for event in unseen],
        }
        written = await other.update_state(GOVERNOR, "alice", {"n": 9}, METADATA, expected=3)
        assert (written.version, written.data) == (4, {"n": 9})
        assert written.causality == {one.store_id: 4}
        assert (await one.update_state(GOVERNOR, "alice", {"n": 10}, METADATA, expected=written)).version == 5


async def test_a_commit_that_is_seen_in_part(place: Place):
    """Where an engine shows a commit document by document, as an emulator may, a conflict is not taken for damage."""
    async with place.store() as one, place.store() as other:
        await one.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        seen = await other.get_state(GOVERNOR, "alice")
        [before] = (await one.core.engine.read(["governors/bank/states/alice"])).documents
        await one.update_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=1)
        read, old = other.core.engine.read, [before] * 5

        async def torn(paths: Any) -> Any:
            reading = await read(paths)
            return (
                reading if not old else msgspec.structs.replace(reading, documents=(old.pop(), *reading.documents[1:]))
            )

        other.core.appender._engine = SimpleNamespace(
            read=torn, scan=other.core.engine.scan, commit=other.core.engine.commit
        )
        with pytest.raises(VersionConflict) as conflict:
            await other.update_state(GOVERNOR, "alice", {"n": 9}, METADATA, expected=seen)
        assert not old
        assert conflict.value.actual == 2


class Seldom(AroundEngine):
    """Does something of somebody else's after the first read that it passes on."""

    def __init__(self, engine: Engine, meddle: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(engine)
        self.meddle: Callable[[], Awaitable[Any]] | None = meddle

    async def read(self, paths: Any) -> Any:  # noqa: D102
        reading = await self._engine.read(paths)
        if paths[0].endswith("states/alice") and (meddle := self.meddle) is not None:
            self.meddle = None
            await meddle()
        return reading


async def test_a_state_that_appears_while_it_is_looked_for(place: Place):
    """Is not found, and is not taken for one whose events are all that is left."""
    async with place.store() as one:
        engine = Seldom(place.engine(), partial(one.save_state, GOVERNOR, "alice", {"n": 0}, METADATA))
        async with place.store(engine) as other:
            with pytest.raises(StateNotFound):
                await other.get_state(GOVERNOR, "alice")
            assert engine.meddle is None
            assert (await other.get_state(GOVERNOR, "alice")).version == 1


async def test_a_conflict_carries_a_bounded_number_of_events(store: StateStore):
    """However far behind a writer is, it is given the hundred newest events, and told how many others there are."""
    await grow(store, "alice", 130)
    with pytest.raises(VersionConflict) as conflict:
        await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=5)
    assert [event.version for event in conflict.value.events] == list(range(31, 131))
    assert conflict.value.left_out == 25


async def test_concurrent_updates_lose_nothing(place: Place):
    """Thirty concurrent increments through two stores are all there in the end."""
    async with place.store() as one, place.store() as other:
        await one.save_state(GOVERNOR, "counter", {"n": 0}, METADATA)

        async def increment(store: StateStore) -> None:
            await store.state(GOVERNOR, "counter").update(lambda data: {"n": data["n"] + 1}, METADATA)

        async with anyio.create_task_group() as tasks:
            for _ in range(15):
                tasks.start_soon(increment, one)
                tasks.start_soon(increment, other)
        state = await other.get_state(GOVERNOR, "counter")
        assert (state.version, state.data) == (31, {"n": 30})


async def test_concurrent_creation_has_one_winner(place: Place):
    """Of many who create the same state at once exactly one succeeds; the others are told who did."""
    async with place.store() as one, place.store() as other:
        outcomes: list[object] = []

        async def create(store: StateStore, name: str) -> None:
            try:
                outcomes.append(await store.save_state(GOVERNOR, "alice", {"by": name}, METADATA))
            except VersionConflict as conflict:
                outcomes.append(conflict)

        async with anyio.create_task_group() as tasks:
            for index in range(6):
                tasks.start_soon(create, (one, other)[index % 2], str(index))
        [winner] = [each for each in outcomes if not isinstance(each, Exception)]
        state = await one.get_state(GOVERNOR, "alice")
        assert state == winner
        assert [each.events[0].to_state for each in outcomes if isinstance(each, VersionConflict)] == [state.data] * 5
