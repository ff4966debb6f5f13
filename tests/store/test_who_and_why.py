"""Who makes a change, and why: said with it, with its handle, or once for the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tai_state import (
    ANY,
    ChangeMetadata,
    EventualConsistency,
    IdempotencyConflict,
    InvalidData,
    NewEvent,
    StateMachinePersister,
    StateSnapshot,
    StateStore,
    Transaction,
    TransactionManager,
    open_store,
)

from ..support.rivals import version
from ..support.stores import GOVERNOR, Place, collected

pytestmark = pytest.mark.anyio

SERVICE = ChangeMetadata("service", "its work")
HANDLE = ChangeMetadata("handle", "its state")
CALLER = ChangeMetadata("caller", "this change")


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: who makes a change is decided above the engines."""
    return "asyncio"


async def _put(store: StateStore) -> None:
    async def write(tx: Transaction) -> None:
        tx.put(store.state(GOVERNOR, "s"), {"n": 2})

    await store.transact(write)


async def _block(store: StateStore) -> None:
    async with TransactionManager(store).transaction(governor_id=GOVERNOR) as tx:
        tx.log("s", "seen")


async def _transition(store: StateStore) -> None:
    before = await store.get_state(GOVERNOR, "s")
    await StateMachinePersister(store).log_transition(GOVERNOR, before, before.with_data({"n": 2}), "step")


CHANGES: dict[str, Callable[[StateStore], Awaitable[object]]] = {
    "save_state": lambda store: store.save_state(GOVERNOR, "s", {"n": 2}, expected=ANY),
    "update_state": lambda store: store.update_state(GOVERNOR, "s", {"n": 2}, expected=1),
    "delete_state": lambda store: store.delete_state(GOVERNOR, "s", expected=1),
    "log_event": lambda store: store.log_event(GOVERNOR, "s", "seen"),
    "handle.save": lambda store: store.state(GOVERNOR, "s").save({"n": 2}, expected=1),
    "handle.update": lambda store: store.state(GOVERNOR, "s").update(lambda now: {"n": now["n"] + 1}),
    "handle.delete": lambda store: store.state(GOVERNOR, "s").delete(expected=1),
    "handle.log": lambda store: store.state(GOVERNOR, "s").log("seen"),
    "record": lambda store: StateMachinePersister(store).record(GOVERNOR, "s", [NewEvent("seen")], expected=1),
    "log_transition": _transition,
    "transact": _put,
    "transaction": _block,
    "read_write_transaction": lambda store: store.transactions.read_write_transaction(
        GOVERNOR, ["s"], lambda _: {"s": {"n": 2}}
    ),
    "read_repair": lambda store: EventualConsistency(store).read_repair(
        GOVERNOR, "s", [version({"n": 3}, {"elsewhere": 1}, state_id="s")]
    ),
}


async def _by_whom(store: StateStore) -> Any:
    newest = (await collected(store.get_events(GOVERNOR, "s", newest_first=True, limit=1)))[0].metadata
    return newest.changed_by, newest.reason


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_store_says_it_for_changes_that_do_not(
    memory_places: Any, change: Callable[[StateStore], Awaitable[object]]
) -> None:
    """A change without metadata is made by whom the store was opened for; where that was not said, it is refused."""
    place: Place = memory_places.new()
    async with place.store() as store:
        await store.save_state(GOVERNOR, "s", {"n": 1}, CALLER)
        with pytest.raises(InvalidData, match="who makes the change"):
            await change(store)
        assert (await store.get_stats()).versions == 1
    async with place.store(metadata=SERVICE) as store:
        await change(store)
        assert await _by_whom(store) == ("service", "its work")


async def test_the_nearest_to_the_change_counts(memory_places: Any) -> None:
    """What the change says comes before what a transaction says, then its handle, then the store."""
    place: Place = memory_places.new()
    async with place.store(metadata=SERVICE) as store:
        handle = store.state(GOVERNOR, "s", metadata=HANDLE)
        said = []

        async def put(metadata: ChangeMetadata | None, of_transaction: ChangeMetadata | None) -> None:
            async def write(tx: Transaction) -> None:
                tx.put(handle, {"n": 1}, metadata)

            await store.transact(write, of_transaction)

        for change in (
            lambda: handle.save({"n": 1}),
            lambda: handle.log("seen", CALLER),
            lambda: handle.update(lambda now: now),
            lambda: put(None, None),
            lambda: put(None, SERVICE),
            lambda: put(CALLER, SERVICE),
            lambda: handle.delete(CALLER, expected=6),
        ):
            await change()
            said.append((await _by_whom(store))[0])
    assert said == ["handle", "caller", "handle", "handle", "service", "caller", "caller"]


@pytest.mark.parametrize("metadata", ["ana", ChangeMetadata("ana", 5), ChangeMetadata("ana", "why", [1])], ids=repr)  # type: ignore[arg-type]
async def test_what_cannot_be_stored_is_refused_when_it_is_given(metadata: Any) -> None:
    """Metadata that means nothing is refused by ``open_store`` and ``state``, and not by the first change."""
    with pytest.raises(InvalidData, match="metadata"):
        open_store("memory://", metadata=metadata)
    store = open_store("memory://")
    with pytest.raises(InvalidData, match="metadata"):
        store.state(GOVERNOR, "s", metadata=metadata)
    async with store:
        with pytest.raises(InvalidData, match="metadata"):
            await store.save_state(GOVERNOR, "s", {}, metadata)


async def test_a_proposal_says_nothing(memory_places: Any) -> None:
    """The empty metadata of a state that was never written is not who makes a change."""
    place: Place = memory_places.new()
    async with place.store(metadata=SERVICE) as store:
        unsaved = StateSnapshot.unsaved(GOVERNOR, "s", {"n": 1})
        await StateMachinePersister(store).log_transition(GOVERNOR, None, unsaved, "made")
        assert await _by_whom(store) == ("service", "its work")


async def test_the_result_of_a_change_is_asked_for_in_the_same_name(memory_places: Any) -> None:
    """A change that left its metadata to the store is found again by a question that does so too."""
    place: Place = memory_places.new()
    async with place.store(metadata=SERVICE) as store:
        saved = await store.save_state(GOVERNOR, "s", {"n": 1}, event_id="request-1")
        assert await store.result_of(GOVERNOR, "s", "request-1", "save") == saved
        with pytest.raises(IdempotencyConflict, match="changed_by"):
            await store.result_of(GOVERNOR, "s", "request-1", "save", CALLER)
