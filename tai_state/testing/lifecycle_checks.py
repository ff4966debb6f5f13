"""Checks of opening and closing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import anyio

from tai_state.engines.api import DocumentChange, Engine, Put, Scan
from tai_state.testing.checking import HANG_SECONDS, let_others_run, present, raises, until


async def _first_change(engine: Engine) -> DocumentChange:
    async with engine.watch("c/a") as changes:
        return await anext(changes)


async def _scanned(engine: Engine) -> None:
    await anext(engine.scan(Scan("c")), None)


async def _moment(engine: Engine) -> None:
    async with engine.moment():
        pass


async def _is_refused(engine: Engine) -> None:
    """Assert that each verb, ``moment`` and ``self_check`` raise RuntimeError."""
    verbs: tuple[tuple[str, Callable[[], Awaitable[object]]], ...] = (
        ("read", lambda: engine.read(["c/a"])),
        ("scan", lambda: _scanned(engine)),
        ("commit", lambda: engine.commit([Put("c/a", {"n": 2})])),
        ("watch", lambda: _first_change(engine)),
        ("moment", lambda: _moment(engine)),
        ("self_check", engine.self_check),
    )
    for name, verb in verbs:
        assert await raises(RuntimeError, verb()), f"{name} works outside of the engine's block"


async def check_outside_of_its_block(engine: Engine) -> None:
    """Before the engine is opened, and after it is closed, each verb raises RuntimeError and changes nothing."""
    await _is_refused(engine)
    async with engine:
        await engine.commit([Put("c/a", {"n": 1})])
    await _is_refused(engine)
    async with engine:
        reading = await engine.read(["c/a"])
    if engine.capabilities.durable:
        assert [each and each.fields() for each in reading.documents] == [{"n": 1}]


async def check_entered_twice(engine: Engine) -> None:
    """Opening an engine that is open raises RuntimeError, and the engine goes on working."""
    async with engine:
        for _ in range(2):
            assert await raises(RuntimeError, engine.__aenter__()), "the engine was entered twice"
        await engine.commit([Put("c/a", {"n": 1})])
        assert (await present(engine, "c/a")).fields() == {"n": 1}


async def check_closing_ends_watches(engine: Engine) -> None:
    """A task that waits for a change when the engine is closed gets RuntimeError, and does not wait forever."""
    ended: list[bool] = []

    async def wait(changes: AsyncIterator[DocumentChange]) -> None:
        ended.append(await raises(RuntimeError, anext(changes)))

    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            async with engine:
                made = await engine.commit([Put("c/a", {})])
                watches = [engine.watch("c/a"), engine.watch("c")]
                for watch in watches:
                    changes = await watch.__aenter__()
                    await until(changes, DocumentChange("c/a", made.revision))
                    tasks.start_soon(wait, changes)
                await let_others_run(5)
            for watch in watches:
                await watch.__aexit__(None, None, None)
    assert ended == [True, True], "closing the engine did not end a watch"


async def check_nothing_begins_while_closing(engine: Engine) -> None:
    """From the moment when an engine begins to close, each verb raises RuntimeError, also one asked for before."""
    await engine.__aenter__()
    asked_before = engine.watch("c/a"), engine.moment()
    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            for n in range(20):  # so that there is something to wait for
                tasks.start_soon(_commit, engine, f"c/{n}")
            await let_others_run(1)
            closing = anyio.Event()
            tasks.start_soon(_close, engine, closing)
            await closing.wait()
            for begun in asked_before:
                assert await raises(RuntimeError, begun.__aenter__()), "something begins while the engine closes"
            await _is_refused(engine)


async def _commit(engine: Engine, path: str) -> None:
    with suppress(RuntimeError):  # the engine may be closed already
        await engine.commit([Put(path, {})])


async def _close(engine: Engine, closing: anyio.Event) -> None:
    closing.set()
    await engine.__aexit__(None, None, None)
