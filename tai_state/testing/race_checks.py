"""Checks of many callers at once, and of cancelling some of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import anyio

from tai_state.engines.api import (
    ABSENT,
    At,
    Check,
    Committed,
    Delete,
    DocumentChange,
    Engine,
    Put,
    Require,
    Scan,
    Write,
)
from tai_state.errors import CommitRefused
from tai_state.testing.checking import (
    CALLERS,
    HANG_SECONDS,
    MANY,
    batch_of,
    fill,
    ids_of,
    judge_batches,
    let_others_run,
    present,
    until,
)

_WRITERS: Final = 32


async def check_one_writer_wins(engine: Engine) -> None:
    """Of many concurrent writers that saw the same revision, or the same absence, exactly one succeeds."""
    revision: int | None = None
    for _ in range(20):
        winners: list[tuple[int, int]] = []

        async def attempt(name: int, require: Require, winners: list[tuple[int, int]] = winners) -> None:
            try:
                committed = await engine.commit([Put("c/a", {"winner": name}, require), Put(f"d/{name}", {})])
            except CommitRefused:
                return
            winners.append((name, committed.revision))

        async with anyio.create_task_group() as tasks:
            for name in range(_WRITERS):
                tasks.start_soon(attempt, name, ABSENT if revision is None else At(revision))
        assert len(winners) == 1, f"{len(winners)} writers won at once"
        [(winner, revision)] = winners
        document = await present(engine, "c/a")
        assert (document.fields(), document.revision) == ({"winner": winner}, revision)
        assert await ids_of(engine.scan(Scan("d"))) == [str(winner)], "a loser's other document is there"
        await engine.commit([Delete(f"d/{winner}")])


async def check_no_increment_is_lost(engine: Engine) -> None:
    """Many writers increment one counter by compare-and-set, and no increment is lost."""
    await engine.commit([Put("c/a", {"n": 0})])

    async def increment() -> None:
        while True:
            document = await present(engine, "c/a")
            try:
                await engine.commit([Put("c/a", {"n": document.fields()["n"] + 1}, At(document.revision))])
            except CommitRefused:
                continue
            return

    async with anyio.create_task_group() as tasks:
        for _ in range(_WRITERS):
            tasks.start_soon(increment)
    assert (await present(engine, "c/a")).fields() == {"n": _WRITERS}


_BAD: Final[Sequence[Write]] = (
    Put("bad/text", {"text": "\ud800"}),
    Put("bad/\ud800", {}),
    Put("bad/value", {"value": object()}),
    Put("bad/revision", {}, At(2**70)),
    Check("bad/revision", At(-(2**70))),
    Delete("bad/\udfff"),
    Put("governors/b/events/bad", {"timestamp": {"a": [1]}}),
)
"""Some engines can store some of these."""


async def check_a_bad_commit_harms_no_other(engine: Engine) -> None:
    """Among many concurrent commits, only those that cannot be stored fail, whatever is wrong with them."""
    failed: list[Exception] = []

    async def commit(*writes: Write) -> None:
        with suppress(Exception):
            await engine.commit(writes)

    async def commit_good(n: int) -> None:
        try:
            await engine.commit([Put(f"c/{n:03}", {"n": n}, ABSENT), Put(f"governors/b/events/{n:03}", {})])
        except Exception as error:  # noqa: BLE001 - a good commit must not fail with any error
            failed.append(error)

    async with anyio.create_task_group() as tasks:
        for n in range(_WRITERS):
            tasks.start_soon(commit_good, n)
            if n % 4 == 1:
                tasks.start_soon(commit, _BAD[n // 4 % len(_BAD)])
                tasks.start_soon(commit, Put(f"with/{n}", {}), _BAD[n // 4 % len(_BAD)])
    assert not failed, f"a good commit failed beside bad ones: {failed[0]!r}"
    assert await ids_of(engine.scan(Scan("c"))) == [f"{n:03}" for n in range(_WRITERS)]
    there = [int(each) for each in await ids_of(engine.scan(Scan("with")))]
    for n in there:
        bad = _BAD[n // 4 % len(_BAD)]
        assert not isinstance(bad, Check), f"a commit with {bad} was applied"
        if isinstance(bad, Put):
            await present(engine, bad.path)


_MOMENTS: Final = 32


async def check_cancelled_commits(engine: Engine) -> None:
    """A cancelled commit is applied whole or not at all; those of other callers are applied and acknowledged."""
    for moment in range(_MOMENTS):
        acknowledged: dict[int, int] = {}

        async def commit(
            caller: int, scope: anyio.CancelScope, moment: int = moment, to: dict[int, int] = acknowledged
        ) -> None:
            with scope:
                to[caller] = (await engine.commit(batch_of(moment, caller))).revision

        scopes = [anyio.CancelScope() for _ in range(CALLERS)]
        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                for caller, scope in enumerate(scopes):
                    tasks.start_soon(commit, caller, scope)
                await let_others_run(moment)
                for scope in scopes[::2]:
                    scope.cancel()
        await judge_batches(engine, moment, acknowledged)


async def check_watch_sees_cancelled_commits(engine: Engine) -> None:
    """A watch also sees what was written by commits whose callers were cancelled."""
    seen: set[DocumentChange] = set()
    async with engine.watch("c") as changes:
        for moment in range(_MOMENTS):
            async with anyio.create_task_group() as tasks:
                for caller in range(CALLERS):
                    tasks.start_soon(engine.commit, batch_of(moment, caller))
                await let_others_run(moment)
                tasks.cancel_scope.cancel()
            marker = await engine.commit([Put("c/marker", {"moment": moment})])
            seen.update(await until(changes, DocumentChange("c/marker", marker.revision)))
        present = {DocumentChange(each.path, each.revision) async for each in engine.scan(Scan("c"))}
        await until(changes, *(present - seen))


async def check_natively_cancelled_commits(engine: Engine) -> None:
    """Under asyncio, ``task.cancel()`` does not do more harm than a cancel scope. Elsewhere this passes at once."""
    if not anyio.get_cancelled_exc_class().__module__.startswith("asyncio"):
        return
    import asyncio  # noqa: PLC0415 - only needed here, under asyncio

    async def commit(moment: int, caller: int) -> Committed:
        return await engine.commit(batch_of(moment, caller))

    for moment in range(_MOMENTS):
        tasks = [asyncio.create_task(commit(moment, caller)) for caller in range(CALLERS)]
        await let_others_run(moment)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), HANG_SECONDS)
        odd = [each for each in results if not isinstance(each, Committed | asyncio.CancelledError)]
        assert not odd, f"a cancelled commit ended in {odd[0]!r}"
        acknowledged = {n: each.revision for n, each in enumerate(results) if isinstance(each, Committed)}
        await judge_batches(engine, moment, acknowledged)


async def check_cancelled_reads(engine: Engine) -> None:
    """Reads and scans may be cancelled at any moment; the engine stays usable."""
    paths = [f"c/{n:05}" for n in range(MANY)]
    await fill(engine, {path: {"at": path} for path in paths})

    async def scan(by: str | None) -> None:
        await ids_of(engine.scan(Scan("c", by=by)))

    for moment in range(_MOMENTS):
        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine.read, paths)
                tasks.start_soon(scan, None)
                tasks.start_soon(scan, "at")
                await let_others_run(moment * 4)
                tasks.cancel_scope.cancel()
            committed = await engine.commit([Put("c/00000", {"moment": moment})])
            assert (await present(engine, "c/00000")).revision == committed.revision
    assert await ids_of(engine.scan(Scan("c"))) == [path[2:] for path in paths]
