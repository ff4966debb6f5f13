"""The store that is flipped: a little of every kind of document, the same in every run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from tai_state import (
    ANY,
    ChangeMetadata,
    EventualConsistency,
    EveryEvents,
    FieldMerge,
    NewEvent,
    StateMachinePersister,
    StateStore,
    Transaction,
    retire_store,
    sync,
)
from tai_state.engines.api import Engine, Put
from tai_state.engines.memory import MemoryEngine
from tai_state.locks.records import BeatRecord, BreakRecord, HeldLock, LockRecord, WaiterRecord
from tai_state.streams.identity import StoreRecord
from tai_state.streams.layout import Layout
from tai_state.streams.settings import Settings
from tai_state.testing import ManualClock

GOVERNOR, SHOP, CLUB, PUMPS = "bank", "shop", "club", "pumps"
STATES = ("alice", "bob", "carol", "dave", "erin", "frank", "gina", "hal")
ME = ChangeMetadata("tester", "a test", {"ticket": 7, "place": {"floor": 2.5}}, trace={"request": "r-1"})
_DAY_US = 24 * 3_600 * 1_000_000
_STORE_ID, _OTHER_ID, _GONE_ID, _ASLEEP_ID = [f"00000000000000{each}" for each in ("aa", "bb", "cc", "dd")]
_START_US = 1_790_000_000_000_000


def _added(state: dict[str, Any] | None, event: Any) -> dict[str, Any]:
    return {"total": (state or {"total": 0})["total"] + event.payload["amount"]}


REDUCERS: Mapping[str, Any] = {"add": _added}


def store_over(engine: Engine, clock: ManualClock, ids: str = "made") -> StateStore:
    """A store that makes the same ids in the same order each time, not yet opened."""
    numbers = count(1)
    settings = Settings(
        indexed=("n",),
        snapshots=EveryEvents(2),
        timeout_seconds=2.0,
        metadata=ME,
        clock=clock,
        new_id=lambda: f"{ids}-{next(numbers)}",
        jitter=lambda: 0.0,
    )
    return StateStore(engine, Layout(), settings)


def clock_after() -> ManualClock:
    """The clock of those who read the store: a while after everything in it."""
    return ManualClock(_START_US + 6 * _DAY_US)


async def fill(engine: Engine, clock: ManualClock, folder: Path) -> None:
    """Write everything.

    Args:
        engine: an open engine without any document.
        clock: its clock, at its beginning.
        folder: for an export of another store, which is restored into this one.
    """
    await engine.commit([Put(Layout().store, msgspec.to_builtins(StoreRecord(_STORE_ID, 2)))])
    async with _opened(engine, clock, "made") as store, _another(clock, _OTHER_ID, "others") as other:
        await _cleaned(store, clock)
        await _written(store)
        await _joined(store, other)
        await _repaired(store, other)
        await _restored(store, other, folder)
        await _retired(store)
        await _timed(store)
        await _of_another_time(store, clock)
        await _locked(store)


@asynccontextmanager
async def _opened(engine: Engine, clock: ManualClock, ids: str) -> AsyncIterator[StateStore]:
    """A store over an engine that stays open."""
    async with store_over(AlreadyOpen(engine), clock, ids) as store:
        yield store


@asynccontextmanager
async def _another(clock: ManualClock, store_id: str, ids: str) -> AsyncIterator[StateStore]:
    """Another store, to be synced with."""
    async with MemoryEngine(clock) as engine:
        await engine.commit([Put(Layout().store, msgspec.to_builtins(StoreRecord(store_id, 2)))])
        async with _opened(engine, clock, ids) as store:
            yield store


@asynccontextmanager
async def asleep() -> AsyncIterator[StateStore]:
    """A store, the same each time, that knows of all that a store did which was retired later, and of nothing else."""
    clock = ManualClock(_START_US)
    async with _another(clock, _GONE_ID, "gone") as gone, _another(clock, _ASLEEP_ID, "asleep") as store:
        for state_id in ("iris", "ivan"):
            for n in range(2):
                await gone.save_state(CLUB, state_id, {"n": n, "of": state_id}, expected=n)
        await sync(gone, store)
        yield store


class AlreadyOpen:
    """An engine that somebody else opens and closes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


async def _cleaned(store: StateStore, clock: ManualClock) -> None:
    """``dave``: the first events were cleaned up; a snapshot stands for them."""
    for n in range(4):
        await store.save_state(GOVERNOR, "dave", {"n": n, "of": "dave"}, expected=n, event_id=f"dave-{n}")
    clock.advance_us(2 * _DAY_US)
    await store.save_state(GOVERNOR, "dave", {"n": 4, "of": "dave"}, expected=4)
    await StateMachinePersister(store).cleanup_old_data(keep=timedelta(days=1))


async def _written(store: StateStore) -> None:
    """``alice`` in many ways, ``bob`` deleted, ``carol`` folded, ``hal`` plain, two of them in one transaction."""
    await same_calls(store)
    await store.save_state(GOVERNOR, "hal", {"n": 1, "of": "hal", "flag": True}, ChangeMetadata("hal", "none"))
    await store.save_state(SHOP + "-front", "x", {"n": 1}, ChangeMetadata("shop", "none"))


async def same_calls(store: StateStore) -> dict[str, Any]:
    """Calls with event ids, in order: made again, they change nothing and give what they gave first."""
    return {name: await call(store) for name, call in SAME_CALLS.items()}


async def _together(store: StateStore) -> Any:
    async def decide(transaction: Transaction) -> None:
        transaction.put("alice", {"n": 4, "of": "alice"}, event_id="both", expected=ANY)
        transaction.put("hal-2", {"n": 4, "of": "hal-2"}, expected=ANY)

    return await store.transactions.execute_transaction(GOVERNOR, decide)


SAME_CALLS: dict[str, Any] = {
    "save": lambda store: store.save_state(
        GOVERNOR, "alice", {"n": 1, "of": "alice", "list": [1, {"a": None}]}, expected=ANY, event_id="alice-1"
    ),
    "update": lambda store: store.state(GOVERNOR, "alice").update(
        lambda data: {**data, "n": 2}, event_id="alice-2", payload={"why": ["so", 1.5]}
    ),
    "log": lambda store: store.log_event(GOVERNOR, "alice", "seen", payload=[True], event_id="alice-3"),
    "save bob": lambda store: store.save_state(GOVERNOR, "bob", {"n": 1}, expected=ANY, event_id="bob-1"),
    "delete bob": lambda store: store.delete_state(GOVERNOR, "bob", expected=ANY, event_id="bob-2"),
    "record": lambda store: StateMachinePersister(store, REDUCERS).record(
        GOVERNOR,
        "carol",
        [NewEvent("add", {"amount": n}, event_id=f"carol-{n}") for n in range(1, 4)],
        expected=ANY,
    ),
    "transact": _together,
}


async def _joined(store: StateStore, other: StateStore) -> None:
    """``erin``: changed in both stores, joined by a sync, with something that was dropped."""
    await other.save_state(GOVERNOR, "erin", {"n": 1, "of": "erin", "a": 1})
    await sync(store, other, governor_id=GOVERNOR, resolver=FieldMerge())
    await other.save_state(GOVERNOR, "erin", {"n": 1, "of": "other", "a": 2}, expected=ANY)
    await store.save_state(GOVERNOR, "erin", {"n": 2, "of": "ours", "a": 1}, expected=ANY, event_id="erin-1")
    await sync(store, other, governor_id=GOVERNOR, resolver=FieldMerge())


async def _repaired(store: StateStore, other: StateStore) -> None:
    """``frank``: repaired with a version that was read elsewhere, with a note of what was brought in."""
    await store.save_state(GOVERNOR, "frank", {"n": 1, "of": "frank", "size": 1})
    await other.save_state(GOVERNOR, "frank", {"n": 7, "of": "other"})
    await EventualConsistency(store).read_repair(
        GOVERNOR, "frank", [await EventualConsistency(other).read(GOVERNOR, "frank")]
    )


async def _restored(store: StateStore, other: StateStore, folder: Path) -> None:
    """A whole governor, from an export."""
    for n in range(3):
        await other.save_state(SHOP, "x", {"n": n, "of": "x"}, expected=n, event_id=f"x-{n}")
    await StateMachinePersister(other).export_history(SHOP, folder / "shop.jsonl")
    await StateMachinePersister(store).import_history(folder / "shop.jsonl")


async def _retired(store: StateStore) -> None:
    """``iris`` and ``ivan``, in a governor of their own: the store that made them was retired."""
    async with asleep() as other:
        await sync(store, other, governor_id=CLUB)
    await retire_store(store, _GONE_ID, governor_id=CLUB)


async def _timed(store: StateStore) -> None:
    """``jack`` and ``jill``, in a governor of their own: machines with time-outs."""
    for n, state_id in enumerate(("jack", "jill"), 1):
        data = {"machine": {"name": "pump", "state": "On", "due": f"2999-01-0{n}T00:00:00.000000Z"}}
        await store.save_state(PUMPS, state_id, data, expected=0)


async def _of_another_time(store: StateStore, clock: ManualClock) -> None:
    """``gina``: written once by a clock that was days ahead, and then by one that was set right."""
    clock.advance_us(3 * _DAY_US)
    await store.save_state(GOVERNOR, "gina", {"n": 1, "of": "gina"})
    clock.advance_us(-3 * _DAY_US)
    await store.save_state(GOVERNOR, "gina", {"n": 2, "of": "gina"}, expected=1, event_id="gina-2")


async def _locked(store: StateStore) -> None:
    """A lock that was renewed, one that was not, one that was broken, and two who wait in a circle; of known names."""
    layout = store.core.layout
    places: dict[str, msgspec.Struct] = {layout.lockbeat("printer"): BeatRecord("nonce-printer", 3)}
    places[layout.lockbreak("nonce-plotter")] = BreakRecord("plotter", 36_000.0)
    for resource, holder, other in (("printer", "ann", "scanner"), ("scanner", "ben", "printer")):
        held = (HeldLock(resource, f"nonce-{resource}"),)
        places[layout.lock(resource)] = LockRecord(holder, held[0].nonce, 36_000.0, "2026-09-22T00:00:00.000000Z")
        places[f"{layout.waiters(other)}/{holder}"] = WaiterRecord(
            holder=holder, holds=held, wants=(other,), ttl=36_000.0, ticket=0, n=1
        )
    await store.core.engine.commit([Put(path, record) for path, record in places.items()])
