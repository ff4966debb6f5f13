"""A stream whose first events were cleaned up is not begun again, though neither its state nor event 1 is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tai_state import (
    ANY,
    NO_STATE,
    Columns,
    EventSourcingError,
    EveryEvents,
    GovernorExists,
    NewEvent,
    NotRetained,
    StateMachinePersister,
    StateStore,
    StoreUnavailable,
    Transaction,
    sync,
)
from tai_state.engines.api import Delete, Put
from tai_state.engines.memory import MemoryEngine

from ..support.histories import ALICE, HOUR, grow
from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, Killed, Place, dump, edit, fields_at, make_store

pytestmark = pytest.mark.anyio

NOTE = "governors/bank/cleaned/alice"
KEEP = timedelta(hours=2)


async def cleaned(place: Place, store: StateStore) -> None:
    """Make a state of twelve versions, and clean its first events up."""
    await grow(store, 12)
    place.clock.advance_us(100 * HOUR)
    stats = await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=KEEP)
    assert stats.events_deleted == 9


def opened(place: Place) -> StateStore:
    """A store that remembers nothing of what was written before."""
    return place.store(snapshots=EveryEvents(2, keep=2))


async def lose(store: StateStore) -> None:
    """Remove the document of the state."""
    await store.core.engine.commit([Delete(ALICE)])


async def saved(transaction: Transaction) -> None:
    """Save the state in a transaction."""
    transaction.put("alice", {"n": 0}, expected=NO_STATE)


Write = Callable[[StateStore], Awaitable[Any]]

FIRST_WRITES: dict[str, Write] = {
    "save": lambda store: store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA),
    "save at version 0": lambda store: store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA, expected=0),
    "save at any version": lambda store: store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA, expected=ANY),
    "save with an id": lambda store: store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA, event_id="mine"),
    "record": lambda store: StateMachinePersister(store, REDUCERS).record(
        GOVERNOR, "alice", [NewEvent("add", 1)], METADATA, expected=NO_STATE
    ),
    "update of a handle": lambda store: store.state(GOVERNOR, "alice").update(lambda _: {"n": 0}, METADATA, initial={}),
    "transaction": lambda store: store.transactions.transact(saved, METADATA, governor_id=GOVERNOR),
}


@pytest.mark.parametrize("write", FIRST_WRITES.values(), ids=FIRST_WRITES.keys())
async def test_no_first_write_begins_a_cleaned_stream_again(place: Place, write: Write):
    """Where the state is lost and event 1 was cleaned up, every first write is refused, and recover brings it back."""
    async with opened(place) as store:
        await cleaned(place, store)
        await lose(store)
    async with opened(place) as store:
        before = await dump(store.core.engine)
        with pytest.raises(EventSourcingError, match="tai-state verify") as refused:
            await write(store)
        assert refused.value.path == ALICE
        assert await dump(store.core.engine) == before
        assert (await store.recover(GOVERNOR)).rebuilt == (ALICE,)
        assert (await store.get_state(GOVERNOR, "alice")).version == 12
        assert (await StateMachinePersister(store).validate_consistency()).consistent


async def test_a_damaged_note_refuses_a_first_write_too(place: Place):
    """Whatever is in the note of a cleanup, it says that the stream has begun; recover mends it."""
    async with opened(place) as store:
        await cleaned(place, store)
        await edit(store.core.engine, NOTE, state_id="bob")
        found = await StateMachinePersister(store).validate_consistency()
        assert [finding.path for finding in found.findings] == [NOTE]
        await lose(store)
    async with opened(place) as store:
        with pytest.raises(EventSourcingError, match="tai-state verify"):
            await store.save_state(GOVERNOR, "alice", {}, METADATA)
        assert set((await store.recover(GOVERNOR)).rebuilt) == {ALICE, NOTE}
        assert (await StateMachinePersister(store).validate_consistency()).consistent


@pytest.mark.parametrize("mend", ["recover", "cleanup"])
async def test_a_note_that_is_missing_is_made_anew(place: Place, mend: str):
    """A verification names a cleaned stream without its note; recover writes it, and so does the next cleanup."""
    async with opened(place) as store:
        await cleaned(place, store)
        await store.core.engine.commit([Delete(NOTE)])
        persister = StateMachinePersister(store)
        [finding] = (await persister.validate_consistency()).findings
        assert finding.path == NOTE
        assert "tai-state recover" in finding.message
        if mend == "recover":
            assert (await store.recover(GOVERNOR)).rebuilt == (NOTE,)
        else:
            await persister.cleanup_old_data(GOVERNOR, keep=KEEP)
        assert (await persister.validate_consistency()).consistent
        await lose(store)
    async with opened(place) as store:
        with pytest.raises(EventSourcingError):
            await store.save_state(GOVERNOR, "alice", {}, METADATA)


async def test_a_note_without_a_stream_is_named_and_removed(place: Place):
    """If all else of a stream was removed, its note says so to verify, and recover makes way for a first write."""
    async with opened(place) as store:
        await store.save_state(GOVERNOR, "bob", {}, METADATA)
        await cleaned(place, store)
        gone = [path for path in await dump(store.core.engine) if "alice" in path and path != NOTE]
        await store.core.engine.commit([Delete(path) for path in gone])
    async with opened(place) as store:
        persister = StateMachinePersister(store)
        assert [each.path for each in (await persister.validate_consistency()).findings] == [NOTE]
        with pytest.raises(EventSourcingError, match="tai-state verify"):
            await store.save_state(GOVERNOR, "alice", {}, METADATA)
        assert (await store.recover(GOVERNOR)).rebuilt == (NOTE,)
        assert (await store.save_state(GOVERNOR, "alice", {}, METADATA)).version == 1
        assert (await persister.validate_consistency()).consistent


@pytest.mark.parametrize(
    "last", ["events/alice~000000000010", "events/alice~000000000012", "snapshots/alice~000000000012"]
)
async def test_a_half_restored_stream_is_not_begun_again(place: Place, tmp_path: Path, last: str):
    """A restore of a cleaned stream was killed before its state: a save there is refused, and the restore goes on."""
    file = tmp_path / "bank.jsonl"
    source = MemoryEngine(place.clock)
    async with make_store(source, place.clock, snapshots=EveryEvents(2, keep=2)) as store:
        await cleaned(place, store)
        await StateMachinePersister(store).export_history(GOVERNOR, file)
        whole = await dump(source)
    async with place.store(Killed(place.engine(), last)) as store:
        with pytest.raises(StoreUnavailable):
            await StateMachinePersister(store).import_history(file)
    async with opened(place) as store:
        for expected in (NO_STATE, ANY):
            with pytest.raises(EventSourcingError):
                await store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA, expected=expected)
        persister = StateMachinePersister(store)
        assert (await persister.import_history(file)).kept == ()
        assert await dump(store.core.engine) == whole
        assert (await persister.validate_consistency()).consistent


async def test_a_state_of_another_history_is_named_beside_the_events_of_the_file(place: Place, tmp_path: Path):
    """A restore was killed before a state; an older one that stands there instead is told, not taken for the file's."""
    file = tmp_path / "bank.jsonl"
    async with opened(place) as store:
        await grow(store, 1)
        older = await fields_at(store.core.engine, ALICE)
    async with make_store(MemoryEngine(place.clock), place.clock) as store:
        await grow(store, 4)
        await StateMachinePersister(store).export_history(GOVERNOR, file)
    engine = MemoryEngine(place.clock)
    async with make_store(Killed(engine, "events/alice~000000000004"), place.clock) as store:
        with pytest.raises(StoreUnavailable):
            await StateMachinePersister(store).import_history(file)
    async with make_store(engine.beside(), place.clock) as store:
        await store.core.engine.commit([Put(ALICE, older)])
        persister = StateMachinePersister(store)
        with pytest.raises(GovernorExists) as exists:
            await persister.import_history(file)
        assert exists.value.changed == (ALICE,)
        assert (await persister.import_history(file, keep_changed=True)).kept == (ALICE,)
        assert await fields_at(store.core.engine, ALICE) == older


async def test_rows_that_were_cleaned_up_are_not_imported_again(place: Place, tmp_path: Path):
    """The same file again, after a cleanup and the loss of the state, records no row twice: the import is refused."""
    rows = [f"2026-03-01T00:00:{second:02}Z,alice,{second}" for second in range(12)]
    file = tmp_path / "log.csv"
    columns = Columns("machine", ("n",), "time")
    async with opened(place) as store:
        persister = StateMachinePersister(store)
        for count in (4, 8, 12):
            file.write_text("\n".join(["time,machine,n", *rows[:count]]))
            await persister.import_csv(GOVERNOR, file, columns)
        place.clock.advance_us(100 * HOUR)
        assert (await persister.cleanup_old_data(GOVERNOR, keep=KEEP)).events_deleted
        await lose(store)
    async with opened(place) as store:
        before = await dump(store.core.engine)
        with pytest.raises(EventSourcingError, match="tai-state verify"):
            await StateMachinePersister(store).import_csv(GOVERNOR, file, columns)
        assert await dump(store.core.engine) == before


async def test_a_sync_names_a_lost_state_and_goes_on(place: Place):
    """One lost state of a cleaned stream is named as failed, whichever side lost it, and all others are synced."""
    other_engine = MemoryEngine(place.clock)
    async with opened(place) as store, make_store(other_engine, place.clock) as other:
        await grow(store, 12)
        await sync(store, other)
        place.clock.advance_us(100 * HOUR)
        assert (await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=KEEP)).events_deleted
        await lose(store)
        for n in range(20):
            await other.save_state(GOVERNOR, f"x{n:02}", {"n": n}, METADATA)
    async with opened(place) as store, make_store(other_engine.beside(), place.clock) as other:
        before = await dump(store.core.engine)
        report = await sync(store, other)
        assert [path for path, _ in report.failed] == [f"{GOVERNOR} alice"]
        assert "tai-state verify" in report.failed[0][1]
        assert await store.count_states(GOVERNOR) == 20
        after = await dump(store.core.engine)
        assert {path: after[path] for path in before} == before
        await store.recover(GOVERNOR)
        assert (await sync(store, other)).complete
        assert (await StateMachinePersister(store).validate_consistency()).consistent


@pytest.mark.parametrize(("action", "floor"), [("add", 10), ("put", 3)], ids=["payloads", "states"])
async def test_what_a_cleanup_left_below_its_snapshot_is_not_the_beginning(place: Place, action: str, floor: int):
    """A lost state is rebuilt from the first event that says what the state was, and verify asks for no reducer."""
    async with opened(place) as store:
        persister = StateMachinePersister(store, REDUCERS)
        for number in range(12):
            if action == "add":
                await persister.record(GOVERNOR, "alice", [NewEvent("add", number)], METADATA, expected=ANY)
            else:
                save = store.save_state if number == 0 else store.update_state
                await save(GOVERNOR, "alice", {"n": number}, METADATA, expected=ANY)
        stream = store.core.layout.stream(GOVERNOR, "alice")
        paths = [stream.event(version) for version in range(3, 10)]
        left = [Put(path, await fields_at(store.core.engine, path)) for path in paths]
        place.clock.advance_us(100 * HOUR)
        await persister.cleanup_old_data(GOVERNOR, keep=KEEP)
        await store.core.engine.commit(left)
        await lose(store)
    async with opened(place) as store:
        persister = StateMachinePersister(store, REDUCERS)
        assert (await persister.recover(GOVERNOR)).rebuilt == (ALICE,)
        assert (await persister.validate_consistency()).consistent
        assert (await fields_at(store.core.engine, ALICE))["floor"] == floor
        assert (await persister.get_state_at(GOVERNOR, "alice", floor)).version == floor
        with pytest.raises(NotRetained):
            await persister.get_state_at(GOVERNOR, "alice", floor - 1)
