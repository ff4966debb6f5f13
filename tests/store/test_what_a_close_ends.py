"""Closing a store ends what waits for it: nobody waits for news that cannot come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tai_state import LockAcquisitionFailed, StateStore, StoreUnavailable

from ..support.stores import METADATA

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..support.stores import Place

pytestmark = pytest.mark.anyio

HANGS_SECONDS = 0.5
"""After so long whoever still waits is taken to wait for ever."""


@pytest.fixture
def anyio_backend() -> str:
    """What a close ends does not depend on the event loop."""
    return "asyncio"


async def _watch_one(store: StateStore, begun: anyio.Event) -> None:
    async with store.watch("g", "s") as states:
        async for _ in states:
            begun.set()


async def _watch_all(store: StateStore, begun: anyio.Event) -> None:
    async with store.watch("g") as states:
        async for _ in states:
            begun.set()


async def _wait_for_a_lock(store: StateStore, begun: anyio.Event) -> None:
    await store.locks.acquire_lock("r", ttl_seconds=3600, wait_seconds=0)
    begun.set()
    async with store.lock("r", ttl_seconds=3600):
        raise AssertionError("the lock is held")


@pytest.mark.parametrize("wait", [_watch_one, _watch_all, _wait_for_a_lock])
async def test_a_close_ends_what_waits(
    place: Place,
    wait: Callable[[StateStore, anyio.Event], Awaitable[Any]],
):
    """A watch, and a waiter for a lock, end with an error when the store is closed."""
    ended: list[str] = []
    begun, over = anyio.Event(), anyio.Event()

    async def waiting(store: StateStore) -> None:
        try:
            await wait(store, begun)
        except (RuntimeError, StoreUnavailable, LockAcquisitionFailed) as error:  # the last: its outcome is unknown
            ended.append(type(error).__name__)
        finally:
            over.set()

    async with anyio.create_task_group() as tasks:
        async with place.store() as store:
            await store.save_state("g", "s", {"n": 1}, METADATA)
            tasks.start_soon(waiting, store)
            await begun.wait()
            await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(HANGS_SECONDS):
            await over.wait()
        tasks.cancel_scope.cancel()
    assert len(ended) == 1
