"""This library, used through its public methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from work import GOVERNOR, MACHINE, METADATA, Measured, state, timed

from tai_state import StateEvent, StateMachinePersister, StateStore, open_store
from tai_state.engines.sqlite.schema import connect
from tai_state.streams import writing
from tai_state.streams.changes import always, append_of
from tai_state.streams.planning import Composition
from tai_state.streams.writing import Intent
from tai_state.values.json import normalise_object

BATCH = 2_000
"""How many events :func:`build` writes in one commit."""


def url(path: Path) -> str:
    """The address of a store in a file."""
    return f"sqlite:///{path}"


def settings(path: Path) -> dict[str, object]:
    """The settings that decide durability, read from a connection opened in the same way as the engine's."""
    connection = connect(str(path), create=False, busy_timeout_ms=1_000)
    try:
        return {name: connection.pragma(name) for name in ("journal_mode", "synchronous")}
    finally:
        connection.close()


def one_task(path: Path, count: int) -> Measured:
    """Transitions of one state, one after the other; each expects the version that the one before wrote."""

    async def run() -> Measured:
        async with open_store(url(path)) as store:
            await _steps(store, MACHINE, 0, 1)
            with timed(count) as measured:
                await _steps(store, MACHINE, 1, count)
        return measured

    return asyncio.run(run())


def many_tasks(path: Path, count: int, tasks: int) -> Measured:
    """The same number of transitions by several concurrent tasks, each with a state of its own."""

    async def run() -> Measured:
        async with open_store(url(path)) as store:
            ids = [f"{MACHINE}-{number}" for number in range(tasks)]
            for state_id in ids:
                await _steps(store, state_id, 0, 1)
            with timed(count // tasks * tasks) as measured:
                await asyncio.gather(*(_steps(store, state_id, 1, count // tasks) for state_id in ids))
        return measured

    return asyncio.run(run())


def get_events(path: Path, count: int) -> Measured:
    """The events of one state, through ``StateStore.get_events``."""
    return _read(path, count, lambda store: store.get_events(GOVERNOR, MACHINE))


def replay(path: Path, count: int) -> Measured:
    """The same events, folded and checked to be complete, through ``StateMachinePersister.replay``."""
    return _read(path, count, lambda store: StateMachinePersister(store).replay(GOVERNOR, MACHINE))


def build(path: Path, count: int) -> None:
    """Make a store with one state of this many events, many in each commit. The last 99 follow the last snapshot."""

    async def run() -> None:
        async with open_store(url(path)) as store:
            at = 0
            for size in _sizes(count):
                await append(store, at, size)
                at += size

    asyncio.run(run())


async def _steps(store: StateStore, state_id: str, version: int, count: int) -> None:
    for _ in range(count):
        written = await store.update_state(GOVERNOR, state_id, state(version), METADATA, expected=version)
        version = written.version


def _read(path: Path, count: int, events: Callable[[StateStore], AsyncIterator[StateEvent]]) -> Measured:
    async def run() -> Measured:
        async with open_store(url(path)) as store:
            with timed(count) as measured:
                found = 0
                async for _ in events(store):
                    found += 1
        if found != count:
            raise AssertionError(f"{found} events were read, not {count}")
        return measured

    return asyncio.run(run())


def _sizes(count: int) -> list[int]:
    last = min(count, 99)
    whole, rest = divmod(count - last, BATCH)
    return [*[BATCH] * whole, *([rest] if rest else []), last]


async def append(store: StateStore, version: int, size: int) -> None:
    """Write ``size`` transitions of the machine in one commit."""
    stream = store.core.layout.stream(GOVERNOR, MACHINE)
    texts = [normalise_object(state(version + offset), "data") for offset in range(size)]
    drafts = tuple(writing.draft(store.core, stream, Intent(METADATA, "update"), state=text) for text, _ in texts)
    compose = always(Composition(drafts, texts[-1][1]))
    await store.core.appender.append_one(append_of(stream, version, drafts), compose)
