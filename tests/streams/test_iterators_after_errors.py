"""After an error or a cancelled step an iterator goes on where it was, or raises again: it never skips."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import (
    ANY,
    CorruptDocument,
    EventSourcingError,
    StateMachinePersister,
    StateStore,
    StoreUnavailable,
    open_store,
)
from tai_state.engines.api import Document, Engine, Put
from tai_state.engines.paging import Paged
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, AroundEngine, collected, fields_at

pytestmark = pytest.mark.anyio

COUNT = 10
PAGE = 3
CALLS_MAX = 30
ERRORS_MAX = 5
TIME = datetime(2026, 3, 1, tzinfo=UTC)
UNTIL = datetime(2027, 3, 1, tzinfo=UTC)

Iterate = Callable[[StateStore], AsyncIterator[Any]]

ITERATORS: dict[str, Iterate] = {
    "list_governors": lambda store: store.list_governors(),
    "list_states": lambda store: store.list_states(GOVERNOR),
    "find_states": lambda store: store.find_states(GOVERNOR, {"n": 0}),
    "get_all_events": lambda store: store.get_all_events(GOVERNOR),
    "get_events_between": lambda store: store.get_events_between(GOVERNOR, TIME, UNTIL),
    "get_events": lambda store: store.get_events(GOVERNOR, "s0"),
    "history": lambda store: store.state(GOVERNOR, "s0").history(),
    "replay": lambda store: StateMachinePersister(store).replay(GOVERNOR, "s0"),
    "list_locks": lambda store: store.locks.list_locks(),
}


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: what is checked is checked above the engines."""
    return "asyncio"


class InSmallPages(AroundEngine):
    """Gives scans in pages of three, and lets something go wrong right before one of its reads or pages."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.calls = 0
        self.at_call = 0
        self.go_wrong: Callable[[], Awaitable[None]] | None = None

    def plan(self, at_call: int, go_wrong: Callable[[], Awaitable[None]]) -> None:
        """Count from nothing, and let it go wrong once at this call."""
        self.calls, self.at_call, self.go_wrong = 0, at_call, go_wrong

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        await self._step()
        return await self._engine.read(paths)

    def scan(self, *arguments: Any, **bounds: Any) -> Paged[Document]:  # noqa: D102
        scan = self._engine.scan(*arguments, **bounds)

        async def fetch() -> list[Document] | None:
            await self._step()
            page: list[Document] = []
            async for document in scan:
                page.append(document)
                if len(page) == PAGE:
                    break
            return page or None

        return Paged(fetch)

    async def _step(self) -> None:
        self.calls += 1
        if self.calls == self.at_call and self.go_wrong is not None:
            await self.go_wrong()


@pytest.fixture
async def store() -> AsyncIterator[StateStore]:
    """Ten governors, ten states of one of them, ten events of one of those, ten locks."""
    clock = ManualClock(step_us=1)
    engine: Any = InSmallPages(MemoryEngine(clock))
    async with open_store(engine, clock=clock, indexed=["n"]) as store:
        for n in range(COUNT):
            await store.save_state(GOVERNOR, "s0", {"n": 0, "round": n}, METADATA, expected=ANY, timestamp=TIME)
        for n in range(1, COUNT):
            await store.save_state(GOVERNOR, f"s{n}", {"n": 0}, METADATA, timestamp=TIME)
            await store.save_state(f"governor {n}", "s", {}, METADATA)
        for n in range(COUNT):
            await store.locks.acquire_lock(f"r{n}")
        yield store


def names(items: Sequence[Any]) -> list[Any]:
    """What tells the items apart."""
    return [
        getattr(each, "fence", None) or getattr(each, "digest", None) or getattr(each, "state_id", each)
        for each in items
    ]


async def given(items: AsyncIterator[Any], *errors: type[BaseException]) -> tuple[list[Any], bool]:
    """What an iterator gives that is asked again after each error, and whether it came to its end."""
    got: list[Any] = []
    for _ in range(ERRORS_MAX):
        try:
            while True:
                got.append(await anext(items))
        except StopAsyncIteration:
            return names(got), True
        except errors:
            pass
    return names(got), False


def is_honest(got: list[Any], has_ended: bool, whole: list[Any]) -> bool:  # noqa: FBT001 - what given() gives
    """Whether an iterator gave everything; or, where it did not end, the beginning of everything."""
    return got == whole if has_ended else got == whole[: len(got)]


ALL = pytest.mark.parametrize("iterate", [pytest.param(iterate, id=name) for name, iterate in ITERATORS.items()])


async def fail() -> None:
    """An error that passes."""
    raise StoreUnavailable("read", "FAULT", "a planned fault")


@ALL
async def test_after_an_error_that_passes(store: StateStore, iterate: Iterate) -> None:
    """Whichever call of the engine fails once, an iterator that is asked again skips nothing."""
    engine: Any = store.core.engine
    whole = names(await collected(iterate(store)))
    assert len(whole) >= COUNT
    wrong = []
    for at_call in range(1, CALLS_MAX):
        engine.plan(at_call, fail)
        got, has_ended = await given(iterate(store), StoreUnavailable)
        if not is_honest(got, has_ended, whole):
            wrong.append((at_call, len(got)))
        if engine.calls < at_call:
            break
    assert wrong == []
    assert at_call > COUNT // PAGE, "the engine was called as often as there are pages"


@ALL
async def test_after_a_cancelled_step(store: StateStore, iterate: Iterate) -> None:
    """Whichever call of the engine is cancelled, an iterator that is asked again skips nothing."""
    engine: Any = store.core.engine
    whole = names(await collected(iterate(store)))
    wrong = []
    for at_call in range(1, CALLS_MAX):
        scope = anyio.CancelScope()

        async def cancel(scope: anyio.CancelScope = scope) -> None:
            scope.cancel()
            await anyio.lowlevel.checkpoint()

        engine.plan(at_call, cancel)
        items = iterate(store)
        first: list[Any] = []
        with scope:
            async for item in items:
                first.append(item)
        rest, has_ended = await given(items)
        if not is_honest([*names(first), *rest], has_ended, whole):
            wrong.append((at_call, len(first), len(rest)))
        if engine.calls < at_call:
            break
    assert wrong == []


async def damage(engine: Engine, path: str) -> None:
    """Take a field away without which a document cannot be read."""
    fields = await fields_at(engine, path)
    del fields["hlc"]
    await engine.commit([Put(path, fields)])


DAMAGED = {
    "list_states": "states/s4",
    "find_states": "states/s4",
    "get_all_events": "events/s4~000000000001",
    "get_events_between": "events/s4~000000000001",
    "get_events": "events/s0~000000000005",
    "history": "events/s0~000000000005",
    "replay": "events/s0~000000000005",
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_after_a_damaged_item(store: StateStore, name: str) -> None:
    """An iterator that met a damaged document gives all sound ones when asked again, or raises again, and names it."""
    path = f"governors/{GOVERNOR}/{DAMAGED[name]}"
    whole = names(await collected(ITERATORS[name](store)))
    await damage(store.core.engine, path)
    items, got, named = ITERATORS[name](store), [], []
    has_ended = False
    while not has_ended and len(named) < ERRORS_MAX:
        try:
            got.append(await anext(items))
        except StopAsyncIteration:
            has_ended = True
        except (CorruptDocument, EventSourcingError) as error:
            named.append(error.path)
    assert set(named) == {path}
    missed = [each for each in whole if each not in names(got)]
    assert len(missed) == 1 if has_ended else names(got) == whole[: len(got)]


@pytest.mark.parametrize("name", ["list_states", "get_events"])
async def test_items_and_pages_from_one_iterator(store: StateStore, name: str) -> None:
    """After some items the next page is what is left of theirs, so that nothing is skipped between them."""
    whole = names(await collected(ITERATORS[name](store)))
    items: Any = ITERATORS[name](store)
    got = [await anext(items)]
    while (page := await items.page()) is not None:
        got += page
    assert names(got) == whole


@ALL
async def test_two_tasks_take_from_one_iterator(store: StateStore, iterate: Iterate) -> None:
    """Two tasks that take items from one iterator get each item once between them, or one of them is refused."""
    whole = names(await collected(iterate(store)))
    items = iterate(store)
    got: list[Any] = []
    refused = 0

    async def take() -> None:
        nonlocal refused
        try:
            async for item in items:
                got.append(item)
                await anyio.lowlevel.checkpoint()
        except RuntimeError:
            refused += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        tasks.start_soon(take)
    assert refused < 2
    assert sorted(map(str, names(got))) == sorted(map(str, whole))
