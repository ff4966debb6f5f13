"""Every iterator, and an error, a cancellation, writes or a second iterator at every step of it.

Afterwards it goes on where it was, or raises again. It never ends before everything was given.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import ANY, EXISTS, StateMachinePersister, StateStore, StoreUnavailable, sync
from tai_state.testing import ManualClock, MemoryEngine

from ..support.iterating import (
    COUNT,
    ITERATORS,
    WATCHES,
    Injecting,
    Iterate,
    Watch,
    fail,
    injected,
    inside,
    name_of,
)
from ..support.stores import GOVERNOR, MEMORY, METADATA, SQLITE, Place, Places, make_store

pytestmark = pytest.mark.anyio

STEPS_MAX = 400
ERRORS_MAX = 3

ALL = pytest.mark.parametrize("iterate", ITERATORS.values(), ids=ITERATORS)
EACH_WATCH = pytest.mark.parametrize("watch", WATCHES.values(), ids=WATCHES)


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: that both are alike is shown by the examination of the engines."""
    return "asyncio"


@pytest.fixture(params=[MEMORY, SQLITE], ids=["memory", "sqlite"])
def place(request: pytest.FixtureRequest) -> Any:
    """An empty place on the engines that run in this process."""
    with Places(request.param) as places:
        yield places.new()


@pytest.fixture(params=["at the waist", "inside the engine"])
async def filled(
    place: Place, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[StateStore, Injecting]]:
    """A filled store, with steps at the calls of the engine, or where the engine goes to its storage."""
    async with injected(place) as (store, injecting):
        if request.param == "inside the engine":
            within = Injecting(MemoryEngine(ManualClock()))
            inside(monkeypatch, within)
            yield store, within
        else:
            yield store, injecting


async def whole(items: AsyncIterator[Any]) -> list[str]:
    """The names of all that an iterator gives."""
    return [name_of(item) async for item in items]


async def asked_on(items: AsyncIterator[Any]) -> tuple[list[str], bool]:
    """What an iterator gives that is asked on after each error, and whether it came to its end; which stays its end."""
    got: list[str] = []
    errors = 0
    while errors < ERRORS_MAX:
        try:
            got.append(name_of(await anext(items)))
        except StopAsyncIteration:
            with pytest.raises((StopAsyncIteration, StoreUnavailable)):  # the planned fault may come only now
                await anext(items)
            return got, True
        except StoreUnavailable:
            errors += 1
    return got, False


def judge(got: list[str], everything: list[str], *, has_ended: bool) -> None:
    """It gave everything; or, if it goes on raising, the beginning of everything."""
    assert got == everything if has_ended else got == everything[: len(got)]


async def at_each_step(injecting: Injecting, run: Callable[[int], Awaitable[None]]) -> int:
    """Let something go wrong at the first step, at the second, and so on, until there is none any more."""
    for at in range(1, STEPS_MAX):
        await run(at)
        if injecting.steps < at:
            return at - 1
    raise AssertionError("it has no end")


@ALL
async def test_an_error_at_any_step(filled: tuple[StateStore, Injecting], iterate: Iterate) -> None:
    """An iterator in which a step fails goes on where it was when it is asked on, or raises again."""
    store, injecting = filled
    everything = await whole(iterate(store))
    assert len(everything) >= COUNT

    async def run(at: int) -> None:
        injecting.plan(at, fail)
        got, has_ended = await asked_on(iterate(store))
        judge(got, everything, has_ended=has_ended)

    assert await at_each_step(injecting, run) >= 1


@ALL
async def test_a_cancellation_at_any_step(filled: tuple[StateStore, Injecting], iterate: Iterate) -> None:
    """An iterator of which a step is cancelled loses nothing."""
    store, injecting = filled
    everything = await whole(iterate(store))

    async def run(at: int) -> None:
        scope = anyio.CancelScope()

        async def cancel() -> None:
            scope.cancel()
            await anyio.lowlevel.checkpoint()

        injecting.plan(at, cancel)
        items, first = iterate(store), []
        with scope:
            async for item in items:
                first.append(name_of(item))
        rest, has_ended = await asked_on(items)
        assert has_ended
        judge([*first, *rest], everything, has_ended=has_ended)

    assert await at_each_step(injecting, run) >= 1


@ALL
async def test_writes_between_any_two_steps(filled: tuple[StateStore, Injecting], iterate: Iterate) -> None:
    """What was there before and is not written meanwhile comes once and in order, whatever is written beside it."""
    store, _ = filled
    everything = await whole(iterate(store))
    got: list[str] = []
    number = 0
    async for item in iterate(store):
        got.append(name_of(item))
        number += 1
        if number <= len(everything):  # not for ever, since it may follow its own writes
            for state_id in (f"a{number}", f"s0 {number}", f"z{number}"):
                await store.save_state(GOVERNOR, state_id, {"n": 1}, METADATA, expected=ANY)
            await store.save_state(f"governor {number % COUNT} more", "s", {}, METADATA, expected=ANY)
    assert [each for each in got if each in everything] == everything


@ALL
async def test_a_second_iterator_beside_it(filled: tuple[StateStore, Injecting], iterate: Iterate) -> None:
    """Two iterators of the same kind, step by step in turns, both give everything."""
    store, _ = filled
    everything = await whole(iterate(store))
    one, other, got = iterate(store), iterate(store), ([], [])
    for _ in everything:
        for items, names in zip((one, other), got, strict=True):
            names.append(name_of(await anext(items)))
    assert got == (everything, everything)
    assert await whole(one) == await whole(other) == []


@ALL
async def test_two_tasks_on_one_iterator_of_which_one_is_cancelled(
    filled: tuple[StateStore, Injecting], iterate: Iterate
) -> None:
    """Whichever step one of two tasks is cancelled at, the other one gets what is left, and nothing twice."""
    store, injecting = filled
    everything = await whole(iterate(store))

    async def run(at: int) -> None:
        items, got = iterate(store), []

        async def take() -> None:
            async for item in items:
                got.append(name_of(item))
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()

            async def cancel() -> None:
                scope.cancel()
                await anyio.lowlevel.checkpoint()

            injecting.plan(at, cancel)
            tasks.start_soon(take)
            with scope:
                await take()
        assert sorted(got) == sorted(everything)

    assert await at_each_step(injecting, run) >= 1


@EACH_WATCH
@pytest.mark.parametrize("happens", ["error", "cancellation"])
async def test_a_watch_goes_on_after_any_step(filled: tuple[StateStore, Injecting], watch: Watch, happens: str) -> None:
    """A watch of which a step fails or is cancelled tells the newest change of each state, or raises again."""
    store, injecting = filled
    rounds = 0

    async def run(at: int) -> None:
        nonlocal rounds
        rounds += 1
        scope = anyio.CancelScope()

        async def happen() -> None:
            if happens == "error":
                await fail()
            scope.cancel()
            await anyio.lowlevel.checkpoint()

        async with watch(store) as changes:
            last = await store.save_state(GOVERNOR, "s0", {"n": 0, "round": rounds}, METADATA, expected=EXISTS)
            injecting.plan(at, happen)
            seen: list[str] = []
            errors = 0
            with anyio.fail_after(5):
                while not seen and errors < ERRORS_MAX:
                    try:
                        with scope:
                            await _until(changes, last.version, seen)
                    except StoreUnavailable:
                        errors += 1
                    scope = anyio.CancelScope()
            assert seen or errors == ERRORS_MAX

    await at_each_step(injecting, run)


async def _until(changes: AsyncIterator[Any], version: int, seen: list[str]) -> None:
    """Take changes until the newest version of ``s0`` is told; an engine tells of revisions only, and it the newest."""
    async for change in changes:
        is_newest = getattr(change, "state_id", "s0") == "s0" and getattr(change, "version", version) == version
        if is_newest and getattr(change, "path", "/s0").endswith("/s0"):
            seen.append(name_of(change))
            return


@EACH_WATCH
async def test_a_watch_ends_with_an_error_and_stays_ended(filled: tuple[StateStore, Injecting], watch: Watch) -> None:
    """A watch whose store is closed tells what it was told, and then raises at each step: it never ends quietly."""
    store, _ = filled
    entered = watch(store)  # left open: what a block's end does is another matter
    changes = await entered.__aenter__()
    await anext(changes)
    await store.__aexit__(None, None, None)
    with anyio.fail_after(10), pytest.raises(RuntimeError):
        await whole(changes)
    for _ in range(3):
        with anyio.fail_after(10), pytest.raises(RuntimeError):
            await anext(changes)
    with suppress(RuntimeError):
        await entered.__aexit__(None, None, None)


Operation = Callable[[StateStore], Awaitable[Any]]


async def _synced(store: StateStore) -> Any:
    clock = ManualClock()
    async with make_store(MemoryEngine(clock), clock) as other:
        report = await sync(store, other, governor_id=GOVERNOR)
        if report.failed:
            raise StoreUnavailable("sync", "FAULT", report.failed[0][1])
        return report.sent, [each.data async for each in other.list_states(GOVERNOR)]


async def _exported(store: StateStore) -> Any:
    async with anyio.TemporaryDirectory() as folder:
        path = f"{folder}/export"
        await StateMachinePersister(store).export_history(GOVERNOR, path)
        return (await anyio.Path(path).read_text()).splitlines()[1:-1]


OPERATIONS: dict[str, Operation] = {
    "count_states": lambda store: store.count_states(GOVERNOR),
    "get_stats": lambda store: store.get_stats(),
    "export": _exported,
    "verify": lambda store: StateMachinePersister(store).validate_consistency(GOVERNOR),
    "recover": lambda store: store.recover(GOVERNOR),
    "sync": _synced,
    "detect_deadlocks": lambda store: store.locks.detect_deadlocks(),
}
"""What goes through iterators to its end, and says that it did."""


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
async def test_work_that_iterates_is_whole_or_fails(filled: tuple[StateStore, Injecting], operation: Operation) -> None:
    """Whichever step fails, work over many documents gives the whole result or raises: never a part of it."""
    store, injecting = filled
    result = await operation(store)

    async def run(at: int) -> None:
        injecting.plan(at, fail)
        try:
            given = await operation(store)
        except StoreUnavailable:
            return
        assert given == result

    assert await at_each_step(injecting, run) >= 1
