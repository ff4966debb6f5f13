"""Watches on Firestore: what they remember, and what is left when they are left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tai_state.engines.api import Delete, DocumentChange, Put
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.engines.firestore.watching import Target, Watched
from tai_state.testing.checking import until

MANY = 500
FEW = 20


def remembered(*parts: object) -> int:
    """How many entries the tables of some objects have together."""
    tables = [each for part in parts for each in vars(part).values() if isinstance(each, dict | set | list)]
    return sum(map(len, tables))


def _established(*targets: Target) -> Watched:
    for target in targets:
        target.begin()
        target.end()
    return Watched(targets)


def _tell(watched: Watched, target: Target, path: str, revision: int | None) -> None:
    target.tell(path, revision)
    watched.look(path)


def test_what_is_gone_is_forgotten():
    """However many documents come and go in a collection, entries are kept of those that are there."""
    target, named = Target(collection="c"), Target(["d/0"])
    watched = _established(target, named)
    for n in range(MANY):
        for revision in (n + 1, None):
            _tell(watched, target, f"c/{n}", revision)
            assert watched.pop() == DocumentChange(f"c/{n}", revision)
    assert remembered(target, named, watched) < FEW


def test_what_is_gone_after_a_reset_is_forgotten():
    """What a collection no longer holds when it is told anew is told as gone once, and forgotten."""
    target = Target(collection="c")
    watched = _established(target)
    for n in range(MANY):
        _tell(watched, target, f"c/{n}", n + 1)
        assert watched.pop() == DocumentChange(f"c/{n}", n + 1)
    target.begin()
    target.tell("c/7", 8)
    for path in target.end():
        watched.look(path)
    gone = {change.path for change in iter(watched.pop, None) if change.revision is None}
    assert gone == {f"c/{n}" for n in range(MANY)} - {"c/7"}
    assert remembered(target, watched) < FEW


def test_what_comes_and_goes_before_it_is_taken_is_told_as_gone():
    """Somebody may have read a document before its change was taken: that it is gone is news, and is said once."""
    target = Target(collection="c")
    watched = _established(target)
    _tell(watched, target, "c/a", 1)
    _tell(watched, target, "c/a", None)
    assert watched.pop() == DocumentChange("c/a", None)
    _tell(watched, target, "c/a", None)
    assert watched.pop() is None
    _tell(watched, target, "c/a", 3)
    assert watched.pop() == DocumentChange("c/a", 3)


_TOLD = st.lists(st.tuples(st.sampled_from(["c/a", "c/b"]), st.booleans()), max_size=12)


@given(history=_TOLD, chances=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60))
def test_in_the_end_all_is_as_it_is(history: list[tuple[str, bool]], chances: list[tuple[int, bool]]):
    """Whichever of three targets learns first, revisions of a named document never go back, and the last is told."""
    collection, one, other = Target(collection="c"), Target(["c/a"]), Target(["c/a", "d/a"])
    watched = _established(collection, one, other)
    states = [(path, n if is_there else None) for n, (path, is_there) in enumerate(history, start=1)]
    places = [0, 0, 0]
    targets = (collection, one, other)
    seen: list[DocumentChange] = []

    def advance(index: int) -> None:
        path, revision = states[places[index]]
        places[index] += 1
        if index == 0 or path == "c/a":
            _tell(watched, targets[index], path, revision)

    for index, is_taken in chances:
        if places[index] < len(states):
            advance(index)
        if is_taken and (change := watched.pop()) is not None:
            seen.append(change)
    for index in range(3):
        while places[index] < len(states):
            advance(index)
    seen += iter(watched.pop, None)
    last = {each.path: each.revision for each in seen}
    expected = dict.fromkeys(("c/a", "c/b")) | dict(states)
    assert {path: last.get(path) for path in expected} == expected
    revisions = [each.revision for each in seen if each.path == "c/a" and each.revision is not None]
    assert revisions == sorted(revisions)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_watch_forgets_what_firestore_tells_as_gone(firestore: Callable[[], FirestoreEngine]):
    """With the server's own messages, too: of many documents that came and went, nothing is kept."""
    async with firestore() as engine, engine.watch("c", "c", "c/0") as changes:
        before = remembered(changes.watched, *changes.watched.targets)
        made = await engine.commit([Put(f"c/{n}", {}) for n in range(MANY)])
        await until(changes, *(DocumentChange(f"c/{n}", made.revision) for n in range(MANY)))
        assert remembered(changes.watched, *changes.watched.targets) > before + MANY
        await engine.commit([Delete(f"c/{n}") for n in range(MANY)])
        await until(changes, *(DocumentChange(f"c/{n}", None) for n in range(MANY)))
        assert remembered(changes.watched, *changes.watched.targets) < before + FEW


_LEFT = """
import asyncio, gc, secrets, sys
from tai_state import ANY, ChangeMetadata, StoreUnavailable, open_store

METADATA = ChangeMetadata("tester", "a test")

async def by_break(store):
    async with store.watch("bank") as changes:
        async for _ in changes:
            break

async def typed(store):
    async with store.state("bank", "x").watch() as changes:
        async for _ in changes:
            break

async def in_a_cycle(store):
    async with store.watch("bank") as changes:
        await anext(changes)
        cycle = [changes]
        cycle.append(cycle)

async def unused(store):
    store.watch("bank")

kept = []

async def kept_for_good(store):
    kept.append(store.watch("bank"))
    await anext(await kept[-1].__aenter__())

async def waiting(store):
    async def wait():
        try:
            async with store.watch("bank") as changes:
                async for _ in changes:
                    pass
        except (StoreUnavailable, RuntimeError):  # the store was closed while it waited, or read
            pass

    kept.append(asyncio.create_task(wait()))
    await asyncio.sleep(0)

async def main(leave):
    async with open_store(f"firestore://test-{secrets.token_hex(8)}") as store:
        await store.save_state("bank", "x", {}, METADATA)
        before = asyncio.all_tasks()
        await leave(store)
        gc.collect()
        while not kept and asyncio.all_tasks() - before:
            await asyncio.sleep(0)
        await store.save_state("bank", "x", {}, METADATA, expected=ANY)
    for task in kept:
        if isinstance(task, asyncio.Task):
            await task
    assert asyncio.all_tasks() == {asyncio.current_task()}, asyncio.all_tasks()

asyncio.run(main(globals()[sys.argv[1]]))
kept.clear()
gc.collect()
print("done")
"""


@pytest.mark.parametrize("how", ["by_break", "typed", "in_a_cycle", "unused", "kept_for_good", "waiting"])
def test_a_watch_that_is_left_leaves_nothing(firestore: Callable[[], FirestoreEngine], how: str):
    """However a watch is left, its stream ends with it or with the store, and nothing is said about it."""
    environment = {**os.environ, EMULATOR: str(firestore()._emulator)}
    command = [sys.executable, "-W", "always", "-c", _LEFT, how]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")
