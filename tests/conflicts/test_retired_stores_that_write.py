"""A store that was retired and writes after all, and records of retired stores that are missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tai_state import (
    CorruptDocument,
    EventSourcingError,
    EventualConsistency,
    FieldMerge,
    StateMachinePersister,
    StateStore,
    open_store,
    retire_store,
    sync,
)
from tai_state.engines.api import ANYTHING, Delete, Put
from tai_state.engines.memory import MemoryDocuments
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, edit, fields_at

pytestmark = pytest.mark.anyio

RULE = FieldMerge({"n": "counter"})
STATE = f"governors/{GOVERNOR}/states/x"
RECORD = f"governors/{GOVERNOR}/retired/x"
ELSEWHERE = "sync with a store that has them, or restore a backup"


class Stores(NamedTuple):
    """The stores of a test.

    Attributes:
        late: a service that has the device's store open under the id that was retired.
        device: the device's store as it is opened now, under a new id.
        centre: the store in which the old id was retired.
        other: one more store, in which the state is as old as when the device had synced first.
        clock: the clock of them all.
    """

    late: StateStore
    device: StateStore
    centre: StateStore
    other: StateStore
    clock: ManualClock


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is decided is decided above the engines."""
    return "asyncio"


@pytest.fixture
async def stores() -> AsyncIterator[Stores]:
    """A store got a new id while a service went on under the old one, which was retired then."""
    clock = ManualClock(step_us=1_000)
    documents = MemoryDocuments()
    async with AsyncExitStack() as stack:

        async def opened(documents: MemoryDocuments) -> StateStore:
            return await stack.enter_async_context(open_store(MemoryEngine(clock, documents), clock=clock))

        late, centre, other = await opened(documents), await opened(MemoryDocuments()), await opened(MemoryDocuments())
        await late.save_state(GOVERNOR, "x", {"n": 1, "gone": 1}, METADATA)
        await add(late, 1)
        for store in (centre, other):
            await sync(late, store)
        meta = await fields_at(late.core.engine, "meta/store")
        await late.core.engine.commit([Put("meta/store", {**meta, "store_id": "a-new-id"})])
        device = await opened(documents)
        assert device.store_id != late.store_id
        assert (await retire_store(centre, late.store_id)).retired == 1
        assert (await sync(device, centre)).complete
        yield Stores(late, device, centre, other, clock)


async def add(store: StateStore, step: int, **changes: Any) -> None:
    """Count further."""
    now = await store.get_state(GOVERNOR, "x")
    data = {**now.data, **changes, "n": now.data["n"] + step}
    await store.update_state(GOVERNOR, "x", data, METADATA, expected=now)


async def drop_record(store: StateStore) -> None:
    """Lose what is on record about retired stores."""
    await store.core.engine.commit([Delete(RECORD, ANYTHING)])


async def findings(store: StateStore) -> list[tuple[str, str]]:
    """The paths and messages of a check."""
    report = await StateMachinePersister(store).validate_consistency()
    return [(each.path, each.message) for each in report.findings]


async def test_a_change_that_looks_like_an_earlier_one_is_named(stores: Stores) -> None:
    """It is never taken for seen: neither synced, nor repaired, nor retired once more; its data can be saved anew."""
    late, device, centre, other, _ = stores
    await add(late, 10)
    before = await fields_at(device.core.engine, STATE)
    assert before["causality"][late.store_id] == 1
    for one, two in ((device, centre), (centre, device), (device, other)):
        [(path, why)] = (await sync(one, two, resolver=RULE)).failed
        assert path == f"{GOVERNOR} x"
        assert f"store {late.store_id} was retired, and changed this state after that" in why
        assert "write the data to a new state" in why
    [(path, why)] = (await retire_store(device, late.store_id)).failed
    assert (path, "write the data to a new state" in why) == (STATE, True)
    with pytest.raises(EventSourcingError, match="was retired"):
        await EventualConsistency(device).read(GOVERNOR, "x")
    theirs = await EventualConsistency(centre).read(GOVERNOR, "x")
    with pytest.raises(EventSourcingError, match="was retired"):
        await EventualConsistency(device).read_repair(GOVERNOR, "x", [theirs], METADATA)
    assert await fields_at(device.core.engine, STATE) == before
    [(path, found)] = await findings(device)
    assert (path, "write the data to a new state" in found) == (STATE, True)
    report = await StateMachinePersister(device).recover()
    assert report.failed == ((path, found),)
    await device.save_state(GOVERNOR, "x-2", (await device.get_state(GOVERNOR, "x")).data, METADATA)
    assert [path for path, _ in (await sync(device, centre)).failed] == [f"{GOVERNOR} x"]
    assert (await centre.get_state(GOVERNOR, "x-2")).data == {"n": 12, "gone": 1}
    assert (await centre.get_state(GOVERNOR, "x")).data == {"n": 2, "gone": 1}


async def test_changes_that_look_like_earlier_ones_are_named_whatever_follows_them(stores: Stores) -> None:
    """The retired store writes more than its mark covers, so that the last clock tells nothing: the events do."""
    late, device, centre, other, _ = stores
    for _ in range(3):
        await add(late, 10)
    assert (await fields_at(device.core.engine, STATE))["causality"][late.store_id] == 3
    for one, two in ((device, centre), (centre, device), (device, other)):
        [(path, why)] = (await sync(one, two, resolver=RULE)).failed
        assert (path, "was retired" in why, "write the data to a new state" in why) == (f"{GOVERNOR} x", True, True)
    for store in (centre, other):
        assert (await store.get_state(GOVERNOR, "x")).data == {"n": 2, "gone": 1}
    [(path, why)] = (await retire_store(device, late.store_id)).failed
    assert (path, "write the data to a new state" in why) == (STATE, True)
    with pytest.raises(EventSourcingError, match="was retired"):
        await EventualConsistency(device).read(GOVERNOR, "x")
    [(path, found)] = await findings(device)
    assert (path, "write the data to a new state" in found) == (STATE, True)


async def test_a_change_that_looks_like_an_earlier_one_is_named_after_a_rival_of_it(stores: Stores) -> None:
    """A join would take it for seen: also there, the events tell."""
    late, device, centre, *_ = stores
    for _ in range(3):
        await add(late, 10)
    await add(centre, 100)
    [(_, why)] = (await sync(device, centre, resolver=RULE)).failed
    assert "was retired" in why
    assert (await centre.get_state(GOVERNOR, "x")).data == {"n": 102, "gone": 1}


async def test_a_state_whose_record_no_store_has_is_not_synced(stores: Stores) -> None:
    """It would spread; and a check names what leads on, which a sync with a sound store then does."""
    _, device, centre, other, _ = stores
    await add(centre, 1)
    await drop_record(device)
    for one, two in ((device, other), (other, device)):
        [(path, why)] = (await sync(one, two, resolver=RULE)).failed
        assert (path, "lacks 1 of the retirements" in why, "tai-state verify" in why) == (f"{GOVERNOR} x", True, True)
    with pytest.raises(EventSourcingError, match="lacks 1"):
        await EventualConsistency(device).read(GOVERNOR, "x")
    assert (await other.get_state(GOVERNOR, "x")).version == 2
    [(path, found)] = await findings(device)
    assert (path, "tai-state recover" in found) == (RECORD, True)
    assert (await sync(device, centre)).complete
    assert await findings(device) == []
    assert await fields_at(device.core.engine, RECORD) == await fields_at(centre.core.engine, RECORD)


async def test_a_record_that_cannot_be_made_again_comes_from_another_store(stores: Stores, tmp_path: Path) -> None:
    """Check and recovery advise the same; an export is refused; a sync of equal states passes the record on."""
    _, device, centre, _, clock = stores
    persister = StateMachinePersister(device)
    for _ in range(2):
        await add(device, 1)
        await device.create_snapshot(GOVERNOR, "x")
    clock.advance_us(48 * 3_600 * 1_000_000)
    await persister.cleanup_old_data(GOVERNOR, keep=timedelta())
    assert (await sync(device, centre)).complete
    whole = await fields_at(device.core.engine, RECORD)
    await drop_record(device)
    advised = (RECORD, f"lacks 1 of the retirements that the clock of its state stands for: {ELSEWHERE}")
    assert await findings(device) == [advised]
    assert (await persister.recover()).failed == (advised,)
    with pytest.raises(CorruptDocument, match="lacks the record of retirements"):
        await persister.export_history(GOVERNOR, tmp_path / "device.jsonl")
    for dry_run in (True, False):
        assert await findings(device) == [advised]
        report = await sync(device, centre, dry_run=dry_run)
        assert (report.same, report.failed) == (1, ())
    assert await findings(device) == []
    assert await fields_at(device.core.engine, RECORD) == whole
    await persister.export_history(GOVERNOR, tmp_path / "device.jsonl")


async def test_a_damaged_record_is_told_once(stores: Stores) -> None:
    """Check and sync say what mends it, and only that."""
    _, device, centre, *_ = stores
    await add(centre, 1)
    await edit(device.core.engine, RECORD, taken_out=3)
    [(path, found)] = await findings(device)
    assert (path, found.count("tai-state"), "tai-state recover" in found) == (RECORD, 1, True)
    [(_, why)] = (await sync(device, centre)).failed
    assert (why.count("tai-state"), "tai-state recover" in why) == (1, True)
    assert (await StateMachinePersister(device).recover()).consistent
    assert (await sync(device, centre)).complete
