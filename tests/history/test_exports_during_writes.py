"""An export that runs while others write: what is restored from it knows the requests that it has seen."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import EveryEvents, StateMachinePersister, StateStore, Transaction, open_store

from ..support.histories import grow_old
from ..support.overtaking import InSmallPages, Overtaken
from ..support.stores import METADATA, collected

if TYPE_CHECKING:
    from pathlib import Path

    from ..conftest import EngineUnderTest
    from ..support.stores import Place, Places

pytestmark = pytest.mark.anyio

EVENT_ID = "payment 1"
ACCOUNTS = [f"account-{number:02}" for number in range(15)]
EXPORTS = 5


@pytest.fixture
def anyio_backend() -> str:
    """What comes in between is chosen here, not by the event loop."""
    return "asyncio"


async def pay(store: StateStore) -> tuple[int, Any]:
    """The request: it adds to what stands, so that it must happen once."""
    account = store.state("bank", "alice")
    paid = await account.update(lambda now: {"paid": now["paid"] + 10}, METADATA, event_id=EVENT_ID)
    return paid.version, paid.data


async def test_a_request_during_an_export_is_known_after_the_restore(memory_places: Places, tmp_path: Path):
    """Wherever a request comes in during an export, it happens once in the store that is restored from it."""
    for number in count(1):
        place = memory_places.new()
        engine = Overtaken(place.engine())
        path = tmp_path / f"{number}.jsonl"
        async with place.store(engine) as store, place.store() as other:
            await store.save_state("bank", "alice", {"paid": 0}, METADATA)
            engine.plan(number, lambda other=other: pay(other))
            await StateMachinePersister(store).export_history("bank", path)
            if engine.calls < number:
                break
        async with open_store("memory://") as restored:
            persister = StateMachinePersister(restored)
            await persister.import_history(path)
            assert await pay(restored) == (2, {"paid": 10})
            assert [event.version for event in await collected(restored.get_events("bank", "alice"))] == [1, 2]
            assert (await persister.validate_consistency()).consistent
    assert number > 1


async def test_an_export_that_begins_during_a_cleanup(memory_places: Places, tmp_path: Path):
    """Between any two steps of a cleanup, an export can be made, and what is restored from it is consistent."""
    for number in count(1):
        place = memory_places.new()
        engine = Overtaken(place.engine())
        path = tmp_path / f"{number}.jsonl"
        async with place.store(engine, snapshots=EveryEvents(2)) as store, place.store() as other:
            await grow_old(place, store)
            exporting = StateMachinePersister(other)
            engine.plan(number, lambda exporting=exporting, path=path: exporting.export_history("bank", path))
            cleaned = await StateMachinePersister(store).cleanup_old_data("bank", keep=timedelta(hours=1))
            assert cleaned.events_deleted > 0
            if engine.calls < number:
                break
        async with open_store("memory://") as restored:
            persister = StateMachinePersister(restored)
            await persister.import_history(path)
            assert (await persister.validate_consistency()).consistent
    assert number > 3


MOVES = 25
"""How many changes are made beside each export at most, so that histories stay short on slow engines."""


async def test_exports_beside_a_writer(engine_under_test: EngineUnderTest, place: Place, tmp_path: Path):
    """While somebody moves money between accounts, each export holds all of it, on every engine."""
    if engine_under_test.tears:
        pytest.skip("the emulator shows a commit document by document")
    totals: list[int] = []
    engine = InSmallPages(place.engine(), lambda *_: anyio.lowlevel.checkpoint())
    async with place.store() as writer, place.store(engine) as other:
        for account in ACCOUNTS:
            await writer.save_state("bank", account, {"n": 100}, METADATA)
        moved = count()

        async def move_on() -> None:
            for done in range(EXPORTS):
                for _ in range(MOVES):
                    await writer.transact(partial(move, writer, next(moved)), METADATA)
                while len(totals) == done:
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(move_on)
            for number in range(EXPORTS):
                path = tmp_path / f"{number}.jsonl"
                await StateMachinePersister(other).export_history("bank", path)
                async with open_store("memory://") as restored:
                    await StateMachinePersister(restored).import_history(path)
                    totals.append(sum([state.data["n"] async for state in restored.list_states("bank")]))
    assert next(moved) > EXPORTS
    assert set(totals) == {100 * len(ACCOUNTS)}


async def move(store: StateStore, number: int, transaction: Transaction) -> None:
    """Move money from one account to another one, which is exported much earlier or later."""
    giver, taker = (store.state("bank", ACCOUNTS[each % len(ACCOUNTS)]) for each in (number, number + 7))
    before = await transaction.get_all(giver, taker)
    for handle, state, amount in zip((giver, taker), before, (-1, 1), strict=True):
        assert state is not None
        transaction.put(handle, {"n": state.data["n"] + amount})
