"""Checks of reopening a store, for durable engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio

from tai_state.engines.api import ABSENT, At, Delete, DocumentChange, Engine, Put, Scan
from tai_state.errors import CommitRefused
from tai_state.testing.checking import (
    CALLERS,
    HANG_SECONDS,
    JSON_VALUES,
    batch_of,
    exactly,
    judge_batches,
    let_others_run,
    present,
    until,
)

_MOMENTS: Final = 12


async def check_commits_survive_closing(make: Callable[[], Engine]) -> None:
    """Committed documents are there, with their revisions and times, when the store is reopened."""
    async with make() as engine:
        assert engine.capabilities.durable, "reopening is only for durable engines"
        await engine.commit([Put("c/a", JSON_VALUES), Put("c/b", {}), Put("c/gone", {})])
        await engine.commit([Put("c/b", {"n": 2}), Delete("c/gone")])
        before = [document async for document in engine.scan(Scan("c"))]
        assert [document.id for document in before] == ["a", "b"]
    for _ in range(2):
        async with make() as engine:
            assert [document async for document in engine.scan(Scan("c"))] == before
            assert (await engine.read(["c/gone", "c/a"])).documents == (None, before[0])
            assert exactly((await present(engine, "c/a")).fields()) == exactly(JSON_VALUES)


async def check_revisions_grow_over_reopening(make: Callable[[], Engine]) -> None:
    """Revisions go on growing after reopening, even if the newest documents have all been deleted."""
    last = stale = 0
    for _ in range(4):
        async with make() as engine:
            committed = await engine.commit([Put("c/a", {}, ABSENT)])
            assert committed.revision > last, f"revision {committed.revision} after {last}"
            try:
                await engine.commit([Put("c/a", {}, At(stale))])
            except CommitRefused:
                pass
            else:
                raise AssertionError("a revision from before the reopening was accepted as current")
            stale = committed.revision
            last = (await engine.commit([Delete("c/a")])).revision
            assert last > committed.revision


async def check_closing_waits_for_commits(make: Callable[[], Engine]) -> None:
    """Closing an engine first applies and acknowledges the commits under way."""
    for moment in range(_MOMENTS):
        acknowledged: dict[int, int] = {}

        async def commit(engine: Engine, caller: int, moment: int = moment, to: dict[int, int] = acknowledged) -> None:
            to[caller] = (await engine.commit(batch_of(moment, caller))).revision

        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as tasks, make() as engine:
                for caller in range(CALLERS):
                    tasks.start_soon(commit, engine, caller)
                    if caller % 3 == 1:
                        await let_others_run(moment)
                await let_others_run(2)
        assert len(acknowledged) == CALLERS
        async with make() as engine:
            await judge_batches(engine, moment, acknowledged)


async def check_two_users_of_one_store(make: Callable[[], Engine]) -> None:
    """If a store may have several users at once, each sees, watches and respects what the other commits."""
    async with make() as one:
        if not one.capabilities.processes:
            return
        made = await one.commit([Put("c/a", {"n": 1})])
        async with make() as other, other.watch("c/a", "c/b") as changes:
            await until(changes, DocumentChange("c/a", made.revision), DocumentChange("c/b", None))
            for n in range(5):
                theirs = await one.commit([Put("c/a", {"n": n}), Delete("c/b")])
                await until(changes, DocumentChange("c/a", theirs.revision))
                assert (await present(other, "c/a")).revision == theirs.revision
                ours = await other.commit([Put("c/a", {"n": -n}, At(theirs.revision)), Put("c/b", {}, ABSENT)])
                assert ours.revision > theirs.revision
                assert (await present(one, "c/b")).revision == ours.revision
                try:
                    await one.commit([Put("c/a", {}, At(theirs.revision))])
                except CommitRefused:
                    continue
                raise AssertionError("a commit was accepted at a revision that another user had replaced")
