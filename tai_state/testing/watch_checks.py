"""Checks of watching."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import anyio

from tai_state.engines.api import Delete, DocumentChange, Engine, Put
from tai_state.testing.checking import HANG_SECONDS, Counted, let_others_run, until


async def check_watch_begins_with_what_is(engine: Engine) -> None:
    """A watch first yields the revision or absence of each named document, and the contents of the collections."""
    first = await engine.commit(
        [Put("c/a", {}), Put("c/b", {}), Put("c/b/below/x", {}), Put("d/a", {}), Put("e/a", {})]
    )
    second = await engine.commit([Put("c/b", {})])
    expected = [DocumentChange("c/a", first.revision), DocumentChange("c/b", second.revision)]
    expected += [DocumentChange("d/a", first.revision), DocumentChange("d/missing", None)]
    async with engine.watch("c", "d/a", "d/missing") as changes:
        seen = await until(changes, *expected)
    assert len(seen) == len(expected), f"the watch also yielded something else: {seen}"


async def check_watch_misses_nothing_after_entering(engine: Engine) -> None:
    """Writes between entering the watch and the first wait are yielded."""
    await engine.commit([Put("c/a", {}), Put("d/a", {})])
    async with engine.watch("c/a", "d", "c/b") as changes:
        gone = await engine.commit([Delete("c/a")])
        made = await engine.commit([Put("d/a", {}), Put("d/b", {}), Put("c/b", {})])
        last = [DocumentChange("c/a", None), *(DocumentChange(path, made.revision) for path in ("d/a", "d/b", "c/b"))]
        await until(changes, *last)
    assert made.revision > gone.revision


async def check_watch_tells_of_a_deletion_right_after_entering(engine: Engine) -> None:
    """A document that is deleted from a watched collection between entering and the first wait is yielded as absent."""
    await engine.commit([Put("c/gone", {})])
    seen: list[DocumentChange] = []
    async with engine.watch("c") as changes:
        await engine.commit([Delete("c/gone")])
        for _ in range(5):
            marker = await engine.commit([Put("c/marker", {})])
            seen += await until(changes, DocumentChange("c/marker", marker.revision))
    assert DocumentChange("c/gone", None) in seen, f"the deletion was never yielded: {seen}"


async def check_watch_always_ends_with_the_last(engine: Engine) -> None:
    """Several changes may come as one, but revisions never go back, and the last always comes."""
    committed = await engine.commit([Put("c/a", {})])
    async with engine.watch("c/a") as changes:
        await until(changes, DocumentChange("c/a", committed.revision))
        for n in range(1, 30):
            for _ in range(n % 4 + 1):
                committed = await engine.commit([Put("c/a", {"n": n})])
            last = DocumentChange("c/a", committed.revision)
            seen = [each.revision or 0 for each in await until(changes, last)]
            assert seen == sorted(set(seen)), f"the watch went back: {seen}"


async def check_watch_tells_of_deletions(engine: Engine) -> None:
    """Deleted documents are yielded as absent, and documents created again at their new revision."""
    for targets in (("c/a",), ("c",), ("c", "c/a")):
        made = await engine.commit([Put("c/a", {})])
        async with engine.watch(*targets) as changes:
            await until(changes, DocumentChange("c/a", made.revision))
            await engine.commit([Delete("c/a")])
            await until(changes, DocumentChange("c/a", None))
            again = await engine.commit([Put("c/a", {})])
            await until(changes, DocumentChange("c/a", again.revision))
            await engine.commit([Delete("c/a")])
            at_last = await engine.commit([Put("c/a", {})])
            await until(changes, DocumentChange("c/a", at_last.revision))


async def check_watch_wakes_everybody(engine: Engine) -> None:
    """Several concurrent watches, of the same and of different targets, each yield the changes of their targets."""
    made = last = (await engine.commit([Put("c/a", {}), Put("c/b", {})])).revision
    woken: list[DocumentChange] = []

    async def wait(changes: AsyncIterator[DocumentChange]) -> None:
        woken.append(await anext(changes))

    async with (
        engine.watch("c/a") as one,
        engine.watch("c/a") as same,
        engine.watch("c") as collection,
        engine.watch("c/b", "c/a") as two,
    ):
        for changes in (one, same):
            await until(changes, DocumentChange("c/a", made))
        for changes in (collection, two):
            await until(changes, DocumentChange("c/a", made), DocumentChange("c/b", made))
        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                for changes in (one, same, collection, two):
                    tasks.start_soon(wait, changes)
                await let_others_run(5)
                await engine.commit([Put("e/a", {}), Put("c/a/below/x", {})])
                last = (await engine.commit([Put("c/a", {})])).revision
    assert woken == [DocumentChange("c/a", last)] * 4, woken


async def check_watch_after_a_cancelled_step(engine: Engine) -> None:
    """A cancelled step takes nothing, whether it waits or a change is at hand: the next step yields the change."""
    await engine.commit([Put("c/a", {})])
    taken: list[DocumentChange] = []

    async def take(changes: AsyncIterator[DocumentChange]) -> None:
        taken.append(await anext(changes))

    async with engine.watch("c/a") as changes:
        with anyio.fail_after(HANG_SECONDS):
            await anext(changes)
            for n in range(3):
                with anyio.move_on_after(0):
                    await anext(changes)
                    raise AssertionError("a change was yielded although nothing had changed")
                written = await engine.commit([Put("c/a", {"n": n})])
                assert await anext(changes) == DocumentChange("c/a", written.revision)
            for moment in range(8):
                taken.clear()
                written = await engine.commit([Put("c/a", {"moment": moment})])
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(take, changes)
                    await let_others_run(moment)
                    tasks.cancel_scope.cancel()
                if not taken:
                    await take(changes)
                assert taken == [DocumentChange("c/a", written.revision)], f"cancelled at moment {moment}: {taken}"


_ELSEWHERE: Final = 20
_WAKES_MAX: Final = 5
"""The most wakes for one change. An engine may need more than one."""


async def check_watch_sleeps_through_what_others_write(engine: Engine) -> None:
    """Commits elsewhere do not wake a watch, not even briefly: only commits to what it watches wake a waiting task."""
    await engine.commit([Put("c/a", {}), Put("d/a", {})])
    seen: dict[str, list[DocumentChange]] = {"c/a": [], "d": []}
    expected: dict[str, list[DocumentChange]] = {}
    waits: dict[str, Counted[DocumentChange]] = {}
    wakes: dict[str, int] = {}

    async def wait(target: str, changes: AsyncIterator[DocumentChange]) -> None:
        while True:
            waits[target] = Counted(anext(changes))
            seen[target].append(await waits[target])

    async def told() -> None:
        with anyio.fail_after(HANG_SECONDS):
            while not all(seen.values()):
                await let_others_run(1)

    async with engine.watch("c/a") as one, engine.watch("d") as collection, anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "c/a", one)
        tasks.start_soon(wait, "d", collection)
        await told()
        for each in seen.values():
            each.clear()
        waiting = dict(waits)
        for n in range(_ELSEWHERE):
            await engine.commit([Put("c/b", {"n": n}), Put("d/a/below/x", {"n": n}), Put("e/d", {}), Delete("c/none")])
        last = await engine.commit([Put("c/a", {}), Put("d/a", {})])
        await told()
        expected |= {"c/a": [DocumentChange("c/a", last.revision)], "d": [DocumentChange("d/a", last.revision)]}
        wakes |= {target: each.wakes for target, each in waiting.items()}
        tasks.cancel_scope.cancel()
    assert seen == expected, seen
    assert max(wakes.values()) <= _WAKES_MAX, f"{_ELSEWHERE} commits elsewhere woke watching tasks: {wakes}"


async def check_watch_left_early(engine: Engine) -> None:
    """A watch may be left unused, after its first change, or by cancelling. Other watches of the same targets go on."""
    committed = await engine.commit([Put("c/a", {})])
    async with engine.watch("c/a") as document, engine.watch("c") as collection:
        async with engine.watch("c/a"):
            pass
        async with engine.watch("c/a", "c") as changes:
            assert await anext(changes) == DocumentChange("c/a", committed.revision)
        for moment in range(6):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_watch_for_ever, engine)
                await let_others_run(moment)
                tasks.cancel_scope.cancel()
            committed = await engine.commit([Put("c/a", {"moment": moment})])
            for changes in (document, collection):
                await until(changes, DocumentChange("c/a", committed.revision))
    async with engine.watch("c/a") as changes:
        committed = await engine.commit([Put("c/a", {})])
        await until(changes, DocumentChange("c/a", committed.revision))


async def _watch_for_ever(engine: Engine) -> None:
    async with engine.watch("c/a") as changes:
        async for _ in changes:
            pass
