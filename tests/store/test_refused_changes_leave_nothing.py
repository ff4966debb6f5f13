"""A change that is refused leaves nothing behind, a governor's document included."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tai_state import (
    CommitTooLarge,
    DocumentTooLarge,
    LockLost,
    NewEvent,
    StateMachinePersister,
    StateNotFound,
    StateStore,
    Transaction,
)

from ..support.stores import METADATA, Place, collected

pytestmark = pytest.mark.anyio

TYPO = "typo"

Change = Callable[[StateStore], Awaitable[Any]]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is refused is refused in every loop."""
    return "asyncio"


async def too_large(store: StateStore) -> None:
    """A document over the limit of every engine."""
    await store.save_state(TYPO, "a", {"x": "y" * 2_000_000}, METADATA)


async def too_many(store: StateStore) -> None:
    """A commit over the limit of every engine."""

    async def write(transaction: Transaction) -> None:
        for n in range(3_000):
            transaction.put(store.state(TYPO, f"s{n}"), {})

    await store.transact(write, METADATA)


async def without_the_lock(store: StateStore) -> None:
    """A change under a lease that is over."""
    async with store.lock("r") as lease:
        pass
    await store.save_state(TYPO, "a", {}, METADATA, fence=lease)


async def without_the_lock_recorded(store: StateStore) -> None:
    """The same, of an event."""
    async with store.lock("r") as lease:
        pass
    persister = StateMachinePersister(store)
    await persister.record(TYPO, "a", [NewEvent("opened")], METADATA, expected=0, fence=lease)


async def of_what_is_not_there(store: StateStore) -> None:
    """A change of a version that was never written."""
    await store.update_state(TYPO, "a", {}, METADATA, expected=3)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (too_large, DocumentTooLarge),
        (too_many, CommitTooLarge),
        (without_the_lock, LockLost),
        (without_the_lock_recorded, LockLost),
        (of_what_is_not_there, StateNotFound),
    ],
)
async def test_a_refused_change_leaves_no_governor(place: Place, change: Change, error: type[Exception]) -> None:
    """After a change under a new governor that was refused, nobody finds that governor."""
    async with place.store() as store:
        with pytest.raises(error):
            await change(store)
        assert await collected(store.list_governors()) == []
