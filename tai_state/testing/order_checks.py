"""Checks of the order of commits, for engines that offer it. Other engines pass them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import anyio

from tai_state.engines.api import Delete, Document, Engine, Put, Scan
from tai_state.engines.ordering import CommitOrdered, commit_ordered
from tai_state.testing.checking import HANG_SECONDS, MANY, ids_of

_EVENTS: Final = "g/b/events"
_LOOKS: Final = 60
_WRITERS: Final = 3


async def _changed(
    ordered: CommitOrdered, after: int = 0, limit: int | None = None, collection: str = _EVENTS
) -> list[Document]:
    return [document async for document in ordered.changed(collection, after, limit)]


def _pairs(documents: Sequence[Document]) -> list[tuple[int, str]]:
    return [(document.revision, document.id) for document in documents]


async def check_changes_come_in_the_order_of_commits(engine: Engine) -> None:
    """Documents written after a revision come in the order of revision and id, each once. Other documents do not."""
    ordered = commit_ordered(engine)
    if ordered is None:
        return
    assert await _changed(ordered) == []
    revisions = [
        (await engine.commit([Put(f"{_EVENTS}/{each}", {"timestamp": each}) for each in ids])).revision
        for ids in ("c", "ba", "z", "d")
    ]
    await engine.commit([Put("g/c/events/x", {}), Put("g/b/states/y", {}), Put("g/b", {})])
    again = (await engine.commit([Put(f"{_EVENTS}/b", {"n": 1}), Delete(f"{_EVENTS}/z")])).revision
    first, second, _, fourth = revisions
    expected = [(first, "c"), (second, "a"), (fourth, "d"), (again, "b")]
    assert _pairs(await _changed(ordered)) == expected
    for after in (first - 1, first, second, fourth, again):
        assert _pairs(await _changed(ordered, after)) == [each for each in expected if each[0] > after], after
    assert [each.fields() for each in await _changed(ordered, fourth)] == [{"n": 1}]
    assert [each.id for each in await _changed(ordered, collection="g/c/events")] == ["x"]


async def check_changes_of_a_commit_stay_together(engine: Engine) -> None:
    """A limit never cuts a commit in two: the documents go on to the end of the commit, over pages if needed."""
    ordered = commit_ordered(engine)
    if ordered is None:
        return
    largest = min(engine.capabilities.max_ops_per_commit, MANY)
    sizes = (3, 1, largest, 2)
    numbers = iter(range(sum(sizes)))
    ends = [0]
    for size in sizes:
        await engine.commit([Put(f"{_EVENTS}/{next(numbers):05}", {"timestamp": ""}) for _ in range(size)])
        ends.append(ends[-1] + size)
    everything = await _changed(ordered)
    assert [int(document.id) for document in everything] == list(range(sum(sizes)))
    for limit in (0, 1, 2, 3, 4, 5, 300, largest + 3, largest + 4, largest + 5, 2 * largest):
        found = await _changed(ordered, limit=limit)
        assert len(found) == min((end for end in ends if end >= limit), default=ends[-1]), f"limit {limit}"
        assert found == everything[: len(found)]
    place, seen = 0, 0
    while found := await _changed(ordered, place, 1):
        place, seen = found[-1].revision, seen + len(found)
    assert seen == len(everything)


async def check_changes_are_of_events_only(engine: Engine) -> None:
    """Asking for the order of any other collection raises ValueError, at once or at the first step."""
    ordered = commit_ordered(engine)
    if ordered is None:
        return
    for collection in ("c", "g/b/states", "g/b/events/x/notes", "events"):
        try:
            await _changed(ordered, collection=collection)
        except ValueError:
            continue
        raise AssertionError(f"the order of {collection} was given")


async def check_what_becomes_visible_is_later(make: Callable[[], Engine]) -> None:
    """While two users of a store write, reading after the last revision seen never misses a document."""
    async with make() as one:
        if commit_ordered(one) is None:
            return
        async with make() as other:
            await _follow(one, other)


async def check_nothing_is_missed_by_following(engine: Engine) -> None:
    """Reading again and again after the last revision seen finds each document once that tasks write meanwhile."""
    if commit_ordered(engine) is not None:
        await _follow(engine, engine)


async def _follow(one: Engine, other: Engine) -> None:
    """Write through both engines, and follow through one: it must find what is there, in order."""
    ordered = commit_ordered(one)
    assert ordered is not None
    written = 0
    followed: list[tuple[int, str]] = []
    is_enough = False

    async def write(engine: Engine, name: int) -> None:
        nonlocal written
        while not is_enough:
            paths = [f"{_EVENTS}/{name}~{written + n:06}" for n in range(1 + written % 3)]
            written += len(paths)
            await engine.commit([Put(path, {"timestamp": "now"}) for path in paths])

    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            for name in range(_WRITERS):
                tasks.start_soon(write, (one, other)[name % 2], name)
            looks = 0
            while looks < _LOOKS or written < _LOOKS:
                looks += 1
                place = followed[-1][0] if followed else 0
                followed += _pairs(await _changed(ordered, place, limit=None if looks % 2 else 5))
            is_enough = True
    followed += _pairs(await _changed(ordered, followed[-1][0] if followed else 0))
    assert followed == sorted(followed), "the order is not that of the revisions"
    there = await ids_of(one.scan(Scan(_EVENTS)))
    assert sorted(document_id for _, document_id in followed) == there, "a look missed something, or gave it twice"
