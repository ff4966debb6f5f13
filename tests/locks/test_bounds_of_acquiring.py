"""``wait`` and ``ttl`` bound what is done for a lock, and whoever gives up leaves nothing, whatever fails meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import LockAcquisitionFailed, LockAlreadyHeld, StateStore, TaiStateError
from tai_state.engines.api import Delete, Document, DocumentChange, Engine, Put, Scan, Write
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.paging import Paged
from tai_state.errors import StoreUnavailable, Unavailable
from tai_state.locks import attempting
from tai_state.testing import Fault, FaultyEngine, ManualClock
from tai_state.testing.faults import Call

from ..support.fault_proxy import FaultProxy
from ..support.locks import paths
from ..support.stores import AroundEngine, Opened, collected, make_store
from ..support.wire_faults import Fault as WireFault
from ..support.wire_faults import at_calls

if TYPE_CHECKING:
    from tai_state.testing.emulator import Emulator

pytestmark = pytest.mark.anyio

HANG_SECONDS = 2
"""What takes longer than this, though it has a fifth of a second, hangs."""


@pytest.fixture
def anyio_backend() -> str:
    """Native cancellation and Firestore's driver are of this event loop."""
    return "asyncio"


async def settle() -> None:
    """Let others do all that needs no time: memory answers at once."""
    for _ in range(60):
        await anyio.lowlevel.checkpoint()


# Bounds -------------------------------------------------------------------------------------------------------------


class Silence:
    """No commit arrives, and none is answered, once that begins."""

    planned = 0

    def __init__(self) -> None:
        self.is_on = False

    def fault(self, call: Call) -> Fault | None:
        """See the plans of ``tai_state.testing``."""
        return Fault.LOST_BEFORE if self.is_on and call.verb == "commit" else None


async def test_a_lock_that_nobody_holds_is_not_said_to_be_held(clock: ManualClock):
    """Where no commit is answered and nobody holds the lock, the error does not say that somebody does."""
    silence = Silence()
    async with make_store(FaultyEngine(MemoryEngine(clock), silence), clock) as store:
        silence.is_on = True
        with pytest.raises((LockAcquisitionFailed, Unavailable)):
            await store.locks.acquire_lock("r", wait_seconds=0)


class Mute(AroundEngine):
    """Never answers one verb, once that is asked for; of commits, those that enter a line."""

    def __init__(self, engine: Engine, verb: str) -> None:
        super().__init__(engine)
        self._verb = verb
        self.is_on = False

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        await self._answer("read")
        return await self._engine.read(paths)

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if any(isinstance(each, Put) and "/waiters/" in each.path for each in writes):
            await self._answer("commit")
        return await self._engine.commit(writes)

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        documents = self._engine.scan(scan)

        async def fetch() -> Sequence[Document] | None:
            await self._answer("scan")
            return await documents.page()

        return Paged(fetch)

    @asynccontextmanager
    async def watch(self, *targets: str) -> AsyncGenerator[AsyncIterator[DocumentChange]]:  # noqa: D102
        await self._answer("watch")
        async with self._engine.watch(*targets) as changes:
            yield changes

    async def _answer(self, verb: str) -> None:
        if self.is_on and verb == self._verb:
            await anyio.sleep_forever()


@pytest.mark.parametrize("wait_seconds", [0, 0.2])
@pytest.mark.parametrize("verb", ["read", "commit", "scan", "watch"])
async def test_wait_bounds_the_wait_for_each_answer(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock, verb: str, wait_seconds: float
):
    """Whichever verb is never answered, the caller is told, and leaves no place in line that it can take away."""
    monkeypatch.setattr(attempting, "_ANSWER_SECONDS_MIN", 0.2)
    engine = MemoryEngine(clock)
    mute = Mute(engine, verb)
    async with make_store(mute, clock, timeout_seconds=0.2) as store, make_store(Opened(engine), clock) as other:
        await other.locks.acquire_lock("r", ttl_seconds=600)
        mute.is_on = True
        with anyio.fail_after(10 * HANG_SECONDS), pytest.raises((LockAlreadyHeld, LockAcquisitionFailed, Unavailable)):
            await store.locks.acquire_lock("r", wait_seconds=wait_seconds)
        if verb != "commit":
            assert await paths(engine, "r") == ["locks/r"]


class Closing(AroundEngine):
    """Is closed once a commit was refused, or an answer was lost."""

    is_closed = False

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        if self.is_closed:
            raise RuntimeError("the store is not open")
        return await self._engine.read(paths)

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        try:
            return await self._engine.commit(writes)
        finally:
            self.is_closed = True


async def test_a_store_that_is_closed_meanwhile_is_said_to_be_that(clock: ManualClock):
    """Whoever wants a lock as the store closes is not told that time was short."""
    engine = MemoryEngine(clock)
    closing = Closing(engine)
    async with make_store(closing, clock) as store, make_store(Opened(engine), clock) as other:
        await other.locks.acquire_lock("r", ttl_seconds=600)
        for wait_seconds in (0, 5, None):
            closing.is_closed = False
            with pytest.raises(RuntimeError, match="is not open"):
                await store.locks.acquire_lock("r", wait_seconds=wait_seconds)


@pytest.fixture
def proxy(firestore_emulator: Emulator) -> Iterator[FaultProxy]:
    """A proxy before the emulator."""
    with FaultProxy(firestore_emulator.host) as proxy:
        yield proxy


@pytest.fixture
async def store(
    proxy: FaultProxy, firestore_project: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StateStore]:
    """An open store behind the proxy, whose calls are counted from now on."""
    monkeypatch.setenv(EMULATOR, proxy.host)
    async with make_store(FirestoreEngine(firestore_project), ManualClock(step_us=1)) as store:
        proxy.reset_counts()
        yield store


async def test_wait_bounds_a_call_whose_answer_never_comes(store: StateStore, proxy: FaultProxy):
    """Whoever waits a fifth of a second for a lock is told soon, although the answer to its commit never comes."""
    proxy.plan = at_calls({("Commit", 1): WireFault.DELAYED})
    over = anyio.Event()

    async def acquire() -> None:
        with suppress(TaiStateError):
            await store.locks.acquire_lock("r", wait_seconds=0.2, ttl_seconds=40.0)
        over.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(acquire)
        with anyio.move_on_after(HANG_SECONDS):
            await over.wait()
        was_in_time = over.is_set()
        proxy.cut()
    assert was_in_time


async def test_one_renewal_that_is_never_answered_loses_no_lease(store: StateStore, proxy: FaultProxy):
    """A renewal without an answer is given up in time for others, and these keep the lease."""
    proxy.plan = at_calls({("Commit", 2): WireFault.DELAYED})
    async with store.lock("r", ttl_seconds=3.0) as lease:
        while proxy.statistics().calls["Commit"] < 4:  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.01)
        assert lease.is_held


# What is left -------------------------------------------------------------------------------------------------------


class Gates(AroundEngine):
    """Holds up the answers to commits, and reads, until a test lets them through."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.committed = anyio.Event()
        self.answers = anyio.Event()
        self.reading = anyio.Event()
        self.reads = anyio.Event()
        self.is_shut = False

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        committed = await self._engine.commit(writes)
        if self.is_shut:
            self.committed.set()
            await self.answers.wait()
        return committed

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        if self.is_shut:
            self.reading.set()
            await self.reads.wait()
        return await self._engine.read(paths)


class NoRead:
    """The next read fails, once that is asked for."""

    planned = 1

    def __init__(self) -> None:
        self.is_next = False

    def fault(self, call: Call) -> Fault | None:
        """See the plans of ``tai_state.testing``."""
        if call.verb != "read" or not self.is_next:
            return None
        self.is_next = False
        return Fault.UNAVAILABLE


async def test_a_cancelled_acquiring_leaves_nothing_though_a_look_fails(clock: ManualClock):
    """A lock that was granted while its caller was cancelled is given back although the first look for it fails."""
    plan = NoRead()
    faulty = FaultyEngine(MemoryEngine(clock), plan)
    gates = Gates(faulty)
    async with make_store(gates, clock) as store:
        gates.reads.set()
        gates.is_shut = True
        task = asyncio.create_task(store.locks.acquire_lock("r", ttl_seconds=3_600.0))
        await gates.committed.wait()
        task.cancel()
        plan.is_next = True
        gates.answers.set()
        await asyncio.wait([task])
        assert faulty.statistics().all_hit
        assert await collected(store.locks.list_locks()) == []


async def test_an_acquiring_that_is_cancelled_twice_leaves_nothing(clock: ManualClock):
    """A lock that was granted while its caller was cancelled is given back although that is cancelled once more."""
    gates = Gates(MemoryEngine(clock))
    async with make_store(gates, clock) as store:
        gates.is_shut = True
        task = asyncio.create_task(store.locks.acquire_lock("r", ttl_seconds=3_600.0))
        await gates.committed.wait()
        task.cancel()
        gates.answers.set()
        await gates.reading.wait()
        task.cancel()
        await settle()
        gates.reads.set()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await collected(store.locks.list_locks()) == []


class KeepsPlaces(AroundEngine):
    """Fails once to take somebody out of line."""

    has_failed = False

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if not self.has_failed and any(isinstance(each, Delete) and "/waiters/" in each.path for each in writes):
            self.has_failed = True
            raise StoreUnavailable("commit", "FAULT", "a planned fault")
        return await self._engine.commit(writes)


async def test_who_waits_no_longer_is_in_no_deadlock(clock: ManualClock):
    """Whoever gave up waiting is in nobody's way, although it could not take itself out of line at once."""
    engine = MemoryEngine(clock)
    keeping = KeepsPlaces(engine)
    async with (
        make_store(keeping, clock) as store,
        make_store(Opened(engine), clock) as other,
        store.lock("second", holder="B"),
    ):
        first = await other.locks.acquire_lock("first")
        with pytest.raises(LockAcquisitionFailed):
            await store.locks.acquire_lock("first", wait_seconds=0.05, holder="B")
        assert keeping.has_failed
        await other.locks.release_lock(first)
        held = await other.locks.acquire_lock("first", holder="A")

        async def wait() -> None:
            await other.locks.acquire_lock("second", holder="A", holding=[held])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await settle()
            circles = await other.locks.detect_deadlocks()
            tasks.cancel_scope.cancel()
    assert circles == []
