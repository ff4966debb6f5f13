"""All asynchronous iterators of the library, and an engine in which something goes wrong at any step of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from tai_state import (
    ANY,
    EventualConsistency,
    StateMachinePersister,
    StateStore,
    StoreUnavailable,
    recorded_conflicts,
)
from tai_state.engines.api import Document, DocumentChange, Engine, Reading, Scan, Where
from tai_state.engines.paging import Paged, take
from tai_state.engines.sqlite import engine as sqlite_engine
from tai_state.streams.upcasting import Upcasting
from tai_state.testing import MemoryEngine

from .adapted import bulbs
from .orders import ORDER
from .stores import GOVERNOR, METADATA, AroundEngine, Opened, Place

COUNT = 8
PAGE = 3
TIME = datetime(2026, 3, 1, tzinfo=UTC)
UNTIL = datetime(2027, 3, 1, tzinfo=UTC)
EVENTS, STATES = f"governors/{GOVERNOR}/events", f"governors/{GOVERNOR}/states"

Iterate = Callable[[StateStore], AsyncIterator[Any]]

ITERATORS: dict[str, Iterate] = {
    "StateStore.list_governors": lambda store: store.list_governors(),
    "StateStore.list_states": lambda store: store.list_states(GOVERNOR),
    "StateStore.list_states, deleted too": lambda store: store.list_states(GOVERNOR, deleted=True),
    "StateStore.find_states": lambda store: store.find_states(GOVERNOR, {"n": 0}),
    "StateStore.get_all_events": lambda store: store.get_all_events(GOVERNOR),
    "StateStore.get_events_between": lambda store: store.get_events_between(GOVERNOR, TIME, UNTIL),
    "StateStore.get_events": lambda store: store.get_events(GOVERNOR, "s0"),
    "StateStore.get_events newest first": lambda store: store.get_events(GOVERNOR, "s0", newest_first=True),
    "StateStore.get_events of a part": lambda store: store.get_events(GOVERNOR, "s0", after=0, until=COUNT),
    "StateHandle.history": lambda store: store.state(GOVERNOR, "s0").history(),
    "PersistentMachine.history": lambda store: store.machine(GOVERNOR, "s0", ORDER).history(),
    "AdaptedMachine.history": lambda store: bulbs(store).machine(GOVERNOR, "s0").history(),
    "StateMachinePersister.replay": lambda store: StateMachinePersister(store).replay(GOVERNOR, "s0"),
    "LockManager.list_locks": lambda store: store.locks.list_locks(),
    "recorded_conflicts": lambda store: recorded_conflicts(store, GOVERNOR),
    "StreamReader.records": lambda store: store.core.reader.records(store.core.layout.stream(GOVERNOR, "s0"), 1),
    "Engine.scan": lambda store: store.core.engine.scan(Scan(EVENTS)),
    "Engine.scan of a part": lambda store: store.core.engine.scan(Scan(EVENTS, start="s0", limit=COUNT)),
    "Engine.scan by a field": lambda store: store.core.engine.scan(Scan(EVENTS, by="timestamp")),
    "Engine.scan where": lambda store: store.core.engine.scan(Scan(STATES, where=[Where("data.n", (0,))])),
    "CommitOrdered.changed": lambda store: store.core.engine.changed(EVENTS),  # type: ignore[attr-defined]
}
"""Iterators that have an end."""

Watch = Callable[[StateStore], Any]

WATCHES: dict[str, Watch] = {
    "StateStore.watch": lambda store: store.watch(GOVERNOR, *(f"s{n}" for n in range(COUNT))),
    "StateStore.watch of a governor": lambda store: store.watch(GOVERNOR),
    "StateHandle.watch": lambda store: store.state(GOVERNOR, "s0").watch(),
    "Engine.watch": lambda store: store.core.engine.watch(STATES),
}
"""Iterators that have none: they tell what changes."""


class Injecting(AroundEngine):
    """Gives scans in pages of three, and lets something happen once: before or after one of its reads or pages.

    What happens after a page was read must not lose it, so the page is put back, as every engine does.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.steps = 0
        self._at = 0
        self._happen: Callable[[], Awaitable[None]] | None = None

    def plan(self, at: int, happen: Callable[[], Awaitable[None]]) -> None:
        """Count from nothing, and let it happen at this step."""
        self.steps, self._at, self._happen = 0, at, happen

    async def read(self, paths: Sequence[str]) -> Reading:  # noqa: D102
        await self.step()
        reading = await self._engine.read(paths)
        await self.step()
        return reading

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        return self._in_steps(self._engine.scan(scan))

    def changed(self, *arguments: Any) -> Paged[Document]:  # noqa: D102
        return self._in_steps(self._engine.changed(*arguments))  # type: ignore[attr-defined]

    @asynccontextmanager
    async def watch(self, *targets: str) -> AsyncGenerator[AsyncIterator[DocumentChange]]:  # noqa: D102
        async with self._engine.watch(*targets) as changes:
            yield _Stepping(changes, self)

    def _in_steps(self, items: Paged[Document]) -> Paged[Document]:
        async def fetch() -> list[Document] | None:
            await self.step()
            page = await take(items, PAGE)
            try:
                await self.step()
            except BaseException:
                items.put_back(page)
                raise
            return page or None

        return Paged(fetch)

    async def step(self) -> None:
        """Count a step, and let happen what is planned for it."""
        self.steps += 1
        if self.steps == self._at and self._happen is not None:
            await self._happen()


class _Stepping(AsyncIterator[DocumentChange]):
    """A watch with a step before each change."""

    def __init__(self, changes: AsyncIterator[DocumentChange], injecting: Injecting) -> None:
        self._changes = changes
        self._injecting = injecting

    async def __anext__(self) -> DocumentChange:
        await self._injecting.step()
        return await anext(self._changes)


async def fail() -> None:
    """An error that passes."""
    raise StoreUnavailable("read", "FAULT", "a planned fault")


def inside(patch: Any, injecting: Injecting) -> None:
    """Let the steps be those inside of the engines: each time they go to their storage, before it and after it."""
    patch.setattr(sqlite_engine, "_PAGE_ROWS", PAGE)
    read, checkpoint = sqlite_engine.SqliteEngine._read, MemoryEngine._checkpoint

    async def stepping(engine: Any, function: Any) -> Any:
        await injecting.step()
        found = await read(engine, function)
        await injecting.step()
        return found

    async def checking(engine: Any) -> None:
        await injecting.step()
        await checkpoint(engine)

    patch.setattr(sqlite_engine.SqliteEngine, "_read", stepping)
    patch.setattr(MemoryEngine, "_checkpoint", checking)


async def fill(store: StateStore) -> None:
    """As many governors, states of one, events of one of those, locks and conflicts on record, each time."""
    for n in range(COUNT):
        await store.save_state(GOVERNOR, "s0", {"n": 0, "round": n}, METADATA, expected=ANY, timestamp=TIME)
    for n in range(1, COUNT):
        await store.save_state(GOVERNOR, f"s{n}", {"n": 0}, METADATA, timestamp=TIME)
        await store.save_state(f"governor {n}", "s", {}, METADATA)
    for n in range(COUNT):
        await store.locks.acquire_lock(f"r{n}", ttl_seconds=3_600)
    consistency = EventualConsistency(store)
    async with (
        MemoryEngine(store.core.settings.clock) as engine,
        StateStore(Opened(engine), store.core.layout, store.core.settings) as other,  # type: ignore[arg-type]
    ):
        for n in range(COUNT):
            await other.save_state(GOVERNOR, f"s{n}", {"n": 0, "other": n}, METADATA)
            rival = await EventualConsistency(other).read(GOVERNOR, f"s{n}")
            await consistency.read_repair(GOVERNOR, f"s{n}", [rival], METADATA)


@asynccontextmanager
async def injected(place: Place) -> AsyncGenerator[tuple[StateStore, Injecting], None]:
    """A filled store over an engine in which something can go wrong at any step."""
    injecting = Injecting(place.engine())
    upcasting = Upcasting(1, {})
    async with place.store(injecting, indexed=("n",), upcasting=upcasting) as store:  # type: ignore[arg-type]
        await fill(store)
        yield store, injecting


def name_of(item: Any) -> str:
    """What tells the items of one iterator apart, and stays the same when they are read again."""
    for name in ("digest", "fence", "event_id", "state_id", "path", "record"):
        if hasattr(item, name):
            found = getattr(item, name)
            return str(found.digest if name == "record" else found)
    return str(item)
