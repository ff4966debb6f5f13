"""Checks of taking documents from a scan: after an error, after a cancelled step, by two tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import anyio

from tai_state.engines.api import Document, Engine, Scan
from tai_state.engines.paging import Paged, converted, mapped
from tai_state.testing.checking import HANG_SECONDS, MANY, fill, let_others_run

_IDS = [f"{n:05}" for n in range(MANY)]
_SCANS = (Scan("c"), Scan("c", by="at"), Scan("c", limit=MANY - 1))


async def check_scan_after_an_error(engine: Engine) -> None:
    """After a passing error, a scan goes on where it was. An item that cannot be converted is never skipped."""
    await _fill(engine)
    for scan in _SCANS:
        failures = 0

        async def with_failures(page: Sequence[Document]) -> Sequence[str]:
            nonlocal failures
            failures += 1
            if failures % 2:
                raise TimeoutError
            return [document.id for document in page]

        assert await _insisting(converted(engine.scan(scan), with_failures)) == _IDS[: scan.limit]
        assert failures > 1, "no page failed, so this check shows nothing"
        states = mapped(engine.scan(scan), _ids_up_to_a_damaged_one)
        seen = await _insisting(states)
        assert seen == _IDS[:700], f"after an item that is wrong, {len(seen)} items were given"
        for _ in range(2):
            try:
                await anext(states, None)
            except ValueError:
                continue
            raise AssertionError("an item that is wrong was passed over")


_MOMENTS: Final = 10


async def check_scan_after_a_cancelled_step(engine: Engine) -> None:
    """A cancelled step takes nothing. Each step that waits for a page is cancelled at each of its first moments."""
    await _fill(engine)
    for scan in _SCANS:
        documents = engine.scan(scan)
        seen: list[str] = []
        cancelled = 0
        is_over = False
        while not is_over:
            before, moment = len(seen), 1  # enough for a document that is at hand
            while len(seen) == before and moment <= _MOMENTS:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_take, documents, seen)
                    await let_others_run(moment)
                    tasks.cancel_scope.cancel()
                moment += 1
                cancelled += len(seen) == before
            if len(seen) == before:
                with anyio.fail_after(HANG_SECONDS):
                    await _take(documents, seen)
                is_over = len(seen) == before
        assert seen == _IDS[: scan.limit], "cancelled steps of a scan lost or doubled documents"
        assert cancelled > 1, "no step was cancelled, so this check shows nothing"


async def check_scan_shared_by_tasks(engine: Engine) -> None:
    """Two tasks that take from one scan get each document once, and each task gets its documents in order."""
    await _fill(engine)
    for scan in _SCANS:
        documents = engine.scan(scan)
        seen: tuple[list[str], list[str]] = ([], [])
        with anyio.fail_after(HANG_SECONDS):
            async with anyio.create_task_group() as tasks:
                for each in seen:
                    tasks.start_soon(_take_all, documents, each)
        assert all(each == sorted(each) for each in seen), "a task got documents out of order"
        assert sorted(seen[0] + seen[1]) == _IDS[: scan.limit], "tasks that share a scan lost or doubled documents"
        assert all(seen), "one of the tasks got nothing: its scan ended too early"


async def _fill(engine: Engine) -> None:
    await fill(engine, {f"c/{each}": {"at": each} for each in _IDS})


async def _take(documents: Paged[Document], seen: list[str]) -> None:
    """Take the next document, if there is one."""
    document = await anext(documents, None)
    if document is not None:
        seen.append(document.id)


async def _take_all(documents: Paged[Document], seen: list[str]) -> None:
    """Take the remaining documents, and let other tasks run before each."""
    before = -1
    while len(seen) > before:
        before = len(seen)
        await let_others_run(1)
        await _take(documents, seen)


async def _insisting(items: Paged[str]) -> list[str]:
    """All items, taken by a caller that asks again after each passing error."""
    seen: list[str] = []
    while True:
        try:
            seen.append(await anext(items))
        except TimeoutError:
            continue
        except (StopAsyncIteration, ValueError):
            return seen


def _ids_up_to_a_damaged_one(page: Iterable[Document]) -> Iterator[str]:
    for document in page:
        if document.id == _IDS[700]:
            raise ValueError(document.id)
        yield document.id
