"""What is read of the store that is flipped: every read of the public interface, as plain values to compare."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import msgspec
from flip_store import CLUB, GOVERNOR, REDUCERS, SAME_CALLS, SHOP, STATES, asleep

from tai_state import (
    ChangeMetadata,
    CorruptDocument,
    EventualConsistency,
    StateMachinePersister,
    StateStore,
    Transaction,
    recorded_conflicts,
    sync,
)
from tai_state.engines.ordering import commit_ordered
from tai_state.locks.records import LockInfo
from tai_state.machines.timers import list_timers
from tai_state.streams.damage import raising

Read = Callable[[StateStore], Awaitable[Any]]

_FROM, _UNTIL = datetime(2026, 9, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
_MOMENT = datetime(2026, 9, 24, tzinfo=UTC)
_WAIT_SECONDS = 1.0

NOT_READS: dict[str, str] = {
    **dict.fromkeys(
        (
            "StateStore.create_snapshot", "StateStore.delete_state", "StateStore.log_event", "StateStore.save_state",
            "StateStore.update_state", "StateStore.lock", "StateHandle.delete", "StateHandle.log", "StateHandle.save",
            "StateHandle.update", "StateMachinePersister.cleanup_old_data", "StateMachinePersister.import_csv",
            "StateMachinePersister.import_history", "StateMachinePersister.log_transition",
            "StateMachinePersister.record", "StateMachinePersister.recover", "StateStore.recover",
            "LockManager.acquire_lock", "LockManager.break_lock", "LockManager.cleanup_expired_locks",
            "LockManager.lock", "LockManager.lock_all", "LockManager.release_lock", "LockManager.renew_lock",
            "Transaction.add", "Transaction.delete", "Transaction.log", "Transaction.put", "Transaction.record",
            "Transaction.commit", "Transaction.is_overtaken_by", "Transaction.run_afterwards",
            "Transaction.confirm", "Transaction.end", "Transaction.leave", "TransactionManager.acquire_lock",
            "TransactionManager.release_lock", "EventualConsistency.read_repair", "retire_store",
        ),
        "changes the store; what it reads first is what the reads read",
    ),
    **dict.fromkeys(
        (
            "StateStore.state", "StateStore.machine", "StateHandle.typed", "Transaction.machine", "Transaction.who",
            "LockManager.statistics",
            "TransactionManager.get_transaction", "TransactionManager.get_transaction_log",
            "EventualConsistency.check_causality", "EventualConsistency.compare", "EventualConsistency.get_stats",
            "EventualConsistency.detect_stale_read", "EventualConsistency.merge_clocks",
            "EventualConsistency.next_lamport", "EventualConsistency.observe_lamport",
            "EventualConsistency.resolve_conflict",
        ),
        "reads nothing from the engine",
    ),
    "StateMachinePersister.validate_consistency": "it is what reports",
    "StateStore.get_size": "it counts the damaged",
    "TransactionManager.transact": "as StateStore.transact",
    "TransactionManager.transaction": "as StateStore.transact",
}  # fmt: skip
"""The rest of the public interface, and why it is not in :data:`READS`."""


async def _all(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def _watched(watch: Any, count: int = 1) -> list[Any]:
    """What a watch shows before anything changes, in the order of ids; less, if so many do not come."""
    seen: dict[str, Any] = {}
    async with watch as states:
        with anyio.move_on_after(_WAIT_SECONDS):
            while len(seen) < count:
                state = await anext(states)
                seen[state.state_id] = state
    return [seen[each] for each in sorted(seen)]


async def _exported(store: StateStore, governor_id: str) -> list[Any]:
    """The lines of an export, without those that differ from one export to the next."""
    async with anyio.TemporaryDirectory(dir=_shared()) as folder:
        path = Path(folder) / "export.jsonl"
        await StateMachinePersister(store, REDUCERS).export_history(governor_id, path)
        return [json.loads(line) for line in (await anyio.Path(path).read_text()).splitlines()[1:-1]]


def _shared() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


async def _in_transaction(store: StateStore, governor_id: str) -> list[Any]:
    async def look(transaction: Transaction) -> list[Any]:
        return [
            await transaction.get("alice"),
            await transaction.find("bob"),
            *await transaction.get_all("carol", "dave", "nobody"),
        ]

    return await store.transactions.execute_transaction(governor_id, look)


async def _decided(store: StateStore) -> Any:
    seen: dict[str, Any] = {}

    def decide(states: dict[str, Any]) -> dict[str, Any]:
        seen.update(states)
        return {}

    await store.transactions.read_write_transaction(GOVERNOR, ["alice", "hal"], decide)
    return seen


async def _transacted(store: StateStore) -> Any:
    async def look(transaction: Transaction) -> Any:
        return await transaction.get(store.state(GOVERNOR, "alice"))

    return await store.transact(look)


async def _in_order(store: StateStore) -> Any:
    """What was last written, in the order of commits, where the engine can tell."""
    ordered = commit_ordered(store.core.engine)
    if ordered is None:
        return []
    return [(each.id, each.fields()) async for each in ordered.changed(store.core.layout.events(GOVERNOR))]


async def _loaded(store: StateStore, state_id: str) -> Any:
    """The state, whether or not it had to be rebuilt; a rebuilt one is written anew, at another time."""
    snapshot = (await StateMachinePersister(store, REDUCERS).load_state(GOVERNOR, state_id)).snapshot
    return msgspec.structs.replace(snapshot, recorded_at=_FROM)


async def _compared(store: StateStore) -> Any:
    """What a sync with a store would do that knows nothing of a retirement."""
    async with asleep() as other:
        report = await sync(store, other, governor_id=CLUB, dry_run=True)
    for _, why in report.failed:
        if why.startswith("'governors/"):
            raise CorruptDocument(*why[1:].split("': ", 1))
    return report


def _persister(store: StateStore) -> StateMachinePersister:
    return StateMachinePersister(store, REDUCERS)


def _of_each() -> Iterator[tuple[str, Read]]:
    """Reads of one state."""
    for each in STATES:
        reads: dict[str, Callable[[StateStore, str], Awaitable[Any]]] = {
            "StateStore.get_state": lambda store, it: store.get_state(GOVERNOR, it),
            "StateStore.get_events": lambda store, it: _all(store.get_events(GOVERNOR, it)),
            "StateStore.load_snapshot": lambda store, it: store.load_snapshot(GOVERNOR, it),
            "StateMachinePersister.replay": lambda store, it: _all(_persister(store).replay(GOVERNOR, it)),
            "StateMachinePersister.get_state_at": lambda store, it: _persister(store).get_state_at(GOVERNOR, it, 2),
        }
        for name, read in reads.items():
            yield f"{name} of {each}", lambda store, read=read, each=each: read(store, each)


READS: dict[str, Read] = {
    **dict(_of_each()),
    "StateStore.get_events newest first": lambda store: _all(store.get_events(GOVERNOR, "alice", newest_first=True)),
    "StateStore.get_events of a part": lambda store: _all(store.get_events(GOVERNOR, "alice", after=2, limit=2)),
    "StateStore.get_events until": lambda store: _all(store.get_events(GOVERNOR, "dave", until=4)),
    "StateStore.exists": lambda store: store.exists(GOVERNOR, "alice"),
    "StateStore.batch_get_states": lambda store: store.batch_get_states(GOVERNOR, [*STATES, "nobody"]),
    "StateStore.list_states": lambda store: _all(store.list_states(GOVERNOR, after="alice")),
    "StateStore.list_states, deleted too": lambda store: _all(store.list_states(GOVERNOR, deleted=True)),
    "StateStore.list_governors": lambda store: _all(store.list_governors()),
    "StateStore.count_states": lambda store: store.count_states(GOVERNOR),
    "StateStore.find_states": lambda store: _all(store.find_states(GOVERNOR, {"n": [1, 2, 4]})),
    "StateStore.get_all_events": lambda store: _all(store.get_all_events(GOVERNOR)),
    "StateStore.get_all_events of a restored governor": lambda store: _all(store.get_all_events(SHOP)),
    "StateStore.get_events_between": lambda store: _all(store.get_events_between(GOVERNOR, _FROM, _UNTIL)),
    "StateStore.get_state_at a time": lambda store: store.get_state_at(GOVERNOR, "alice", _MOMENT),
    "StateStore.get_stats": lambda store: store.get_stats(),
    "StateStore.list_snapshots": lambda store: store.list_snapshots(GOVERNOR, "dave"),
    "StateStore.result_of": lambda store: store.result_of(
        GOVERNOR, "alice", "alice-2", "update", ChangeMetadata("tester", "a test")
    ),
    "StateStore.watch": lambda store: _watched(store.watch(GOVERNOR, "alice")),
    "StateStore.watch of a governor": lambda store: _watched(store.watch(GOVERNOR), len(STATES) + 1),
    "StateStore.transact": _transacted,
    "StateHandle.get": lambda store: store.state(GOVERNOR, "alice").get(),
    "StateHandle.exists": lambda store: store.state(GOVERNOR, "hal").exists(),
    "StateHandle.at": lambda store: store.state(GOVERNOR, "alice").at(3),
    "StateHandle.history": lambda store: _all(store.state(GOVERNOR, "alice").history()),
    "StateHandle.watch": lambda store: _watched(store.state(GOVERNOR, "hal").watch()),
    "StateMachinePersister.export_history": lambda store: _exported(store, GOVERNOR),
    "StateMachinePersister.export_history with a retired store": lambda store: _exported(store, CLUB),
    "TransactionManager.execute_transaction": lambda store: _in_transaction(store, GOVERNOR),
    "TransactionManager.read_write_transaction": _decided,
    "Transaction.get": _transacted,
    "Transaction.find": lambda store: _in_transaction(store, GOVERNOR),
    "Transaction.get_all": lambda store: _in_transaction(store, GOVERNOR),
    "LockManager.list_locks": lambda store: _all(store.locks.list_locks()),
    "LockManager.detect_deadlocks": lambda store: store.locks.detect_deadlocks(),
    "EventualConsistency.read": lambda store: EventualConsistency(store).read(GOVERNOR, "erin"),
    "recorded_conflicts": lambda store: _all(recorded_conflicts(store, GOVERNOR)),
    "sync, a dry run": _compared,
    "CommitOrdered.changed": _in_order,
    "list_timers": lambda store: _all(list_timers(store.core, None, None, raising)),
}
"""Reads that change nothing, by the method of the public interface and by what is asked of it."""

LAST_READS: dict[str, Read] = {
    **{f"the same {name} again": read for name, read in SAME_CALLS.items()},
    **{f"StateMachinePersister.load_state of {each}": lambda store, each=each: _loaded(store, each) for each in STATES},
}
"""Calls that read, and may write if what they read is not what it was: they come after all others."""


async def outcomes(store: StateStore, reads: dict[str, Read]) -> dict[str, Any]:
    """What each read gives, by its name; an error is an outcome, too."""
    found: dict[str, Any] = {}
    for name, read in reads.items():
        try:
            found[name] = _plain(await read(store))
        except Exception as error:  # noqa: BLE001 - whatever it raises is what it gives
            found[name] = error
    return found


def _plain(value: Any) -> Any:
    """The value without what passes by itself: how long a lock has left."""
    if isinstance(value, LockInfo):
        return msgspec.structs.replace(value, remaining_seconds=0.0)
    return [_plain(each) for each in value] if isinstance(value, list) else value
