"""Deadlocks are found, and only where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tai_state import StateStore
from tai_state.engines.api import Delete, Put
from tai_state.errors import DeadlockDetected
from tai_state.locks.deadlocks import DeadlockSearch, Waiter, circle_through, circles, entangled
from tai_state.locks.lease import Lease
from tai_state.locks.records import HeldLock, WaiterRecord

from ..support.locks import TTL, Time, asleep, managed, paths, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("names", ["ab", "abc"])
async def test_a_deadlock_is_found_and_broken(store: StateStore, other: StateStore, time: Time, names: str):
    """Of two or three who wait for each other, the last to wait gives up, and the others get their locks."""
    managers = [managed(store, time), managed(other, time)]
    turn = -1
    held: list[str] = []
    done: list[str] = []
    failed: list[DeadlockDetected] = []

    async def step(n: int) -> None:
        try:
            async with managers[n % 2].lock(names[n], ttl_seconds=60):
                held.append(names[n])
                await until(lambda: turn == n)
                async with managers[n % 2].lock(names[(n + 1) % len(names)], ttl_seconds=60):
                    done.append(names[n])
        except DeadlockDetected as error:
            failed.append(error)

    async with anyio.create_task_group() as tasks:
        for n in range(len(names)):
            tasks.start_soon(step, n)
        await until(lambda: len(held) == len(names))
        for turn in range(len(names)):
            await until(lambda turn=turn: len(asleep(*managers)) == turn + 1)
        found = await managers[0].detect_deadlocks()
        assert found == ([tuple(names)] if store.core.engine.capabilities.shared_clock else [])
        await time.pass_until(lambda: len(done) == len(names) - 1)
    [error] = failed
    assert (error.cycle, error.is_transient) == (tuple(names), True)
    assert sorted(done) == sorted(names[:-1]), "the last to wait gave up"
    assert not [each for each in await paths(store.core.engine, *names) if each.startswith("locks/")]
    assert await managers[0].detect_deadlocks() == []


async def test_who_waits_for_itself(store: StateStore, time: Time):
    """A block that locks again what it holds is a deadlock by itself; so is a task that names the block it is of."""
    locks = managed(store, time)
    caught: list[DeadlockDetected] = []

    async def again(*holding: Lease) -> None:
        try:
            await locks.acquire_lock("r", holding=holding)
        except DeadlockDetected as error:
            caught.append(error)

    for is_in_task in (False, True):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(time.pass_until, lambda: caught)
            async with locks.lock("r", ttl_seconds=60) as lease:
                if is_in_task:
                    async with anyio.create_task_group() as inner:
                        inner.start_soon(again, lease)
                else:
                    await again()
        assert caught.pop().cycle == ("r",)


async def test_waiting_in_a_row_is_no_deadlock(store: StateStore, other: StateStore, time: Time):
    """Those who wait one behind the other, without a circle, are left alone however often they search."""
    managers = [managed(store, time), managed(other, time)]
    names = "abcd"
    held: list[int] = []
    done: list[int] = []

    async def step(n: int) -> None:
        async with managers[n % 2].lock(names[n], ttl_seconds=60):
            held.append(n)
            async with managers[n % 2].lock(names[n + 1], ttl_seconds=60):
                done.append(n)

    last = await managers[0].acquire_lock("d", ttl_seconds=60)
    async with anyio.create_task_group() as tasks:
        for n in (2, 1, 0):
            tasks.start_soon(step, n)
            await until(lambda n=n: len(held) == 3 - n)
        await time.pass_until(lambda: False, seconds=30)
        assert await managers[1].detect_deadlocks() == []
        await managers[0].renew_lock(last)
        await managers[0].release_lock(last)
        await time.pass_until(lambda: len(done) == 3)
    assert done == [2, 1, 0]


@pytest.mark.parametrize("dead", ["nothing", "waiter", "lease", "claim", "lock"])
async def test_the_dead_are_in_no_circle(store: StateStore, time: Time, dead: str):
    """A circle counts only if each waiter shows life, each lease does, and each lock is still of the tenure named."""
    locks = managed(store, time)
    left = {"waiter": "locks/b/waiters/x", "lease": "lockbeats/a", "claim": "", "nothing": "", "lock": "locks/a"}[dead]
    n = 0

    async def live() -> None:
        nonlocal n
        n += 1
        documents: dict[str, dict[str, Any]] = {}
        for owner, has, wants in (("x", "a", "b"), ("y", "b", "a")):
            nonce = "of before" if dead == "claim" and has == "a" else has
            documents[f"lockbeats/{has}"] = {"nonce": has, "n": n}
            documents[f"locks/{wants}/waiters/{owner}"] = {
                "holder": owner,
                "holds": [{"resource": has, "nonce": nonce}],
                "wants": [wants],
                "ttl": TTL,
                "ticket": 0,
                "n": n,
            }
            if n == 1:
                documents[f"locks/{has}"] = {"holder": owner, "nonce": has, "ttl": TTL, "acquired_at": ""}
        await store.core.engine.commit([Put(path, each) for path, each in documents.items() if n == 1 or path != left])

    await live()
    found = await locks.detect_deadlocks()
    assert found == ([("a", "b")] if store.core.engine.capabilities.shared_clock and dead != "claim" else [])
    if dead == "lock":
        await store.core.engine.commit([Delete("locks/a")])
    time.advance(TTL * 0.6)
    await live()
    await locks.detect_deadlocks()
    time.advance(TTL * 0.6)
    await live()
    assert await locks.detect_deadlocks() == ([("a", "b")] if dead == "nothing" else [])


MANY = 300


def _waiter(has: str, wants: str, n: int) -> dict[str, Any]:
    holds = [{"resource": has, "nonce": has}] if has else []
    return {"holder": "", "holds": holds, "wants": [wants], "ttl": TTL, "ticket": 0, "n": n}


def _lock(resource: str) -> dict[str, Any]:
    return {"holder": "", "nonce": resource, "ttl": TTL, "acquired_at": ""}


async def _searched(store: StateStore, time: Time, waiters: Mapping[str, tuple[str, str]]) -> tuple[Any, Any]:
    """What is found where these wait, each by the path of its document with what it holds and wants.

    Gives what a search of all finds, and the circle that the one whose document is named last has to leave.
    """
    locks = managed(store, time)
    held = {has: Put(f"locks/{has}", _lock(has)) for has, _ in waiters.values() if has}
    await store.core.engine.commit([*held.values()])
    for n in range(2):  # the second time, a manager without a shared clock sees that they live
        await store.core.engine.commit([Put(path, _waiter(has, wants, n)) for path, (has, wants) in waiters.items()])
        found = await locks.detect_deadlocks()
    path, (has, _) = list(waiters.items())[-1]
    search = DeadlockSearch(locks._common)
    await search.circle_to_leave(path.rpartition("/")[2], [has])
    return found, await search.circle_to_leave(path.rpartition("/")[2], [has])


@pytest.mark.parametrize("holding", [False, True], ids=["idle", "holding"])
async def test_a_circle_is_found_behind_many_who_came_later(store: StateStore, time: Time, *, holding: bool):
    """However many wait for the same, and came before or after, the circle that two of them are in is found."""
    others = {f"locks/a/waiters/{n:03}": (f"other {n}" if holding else "", "a") for n in range(MANY)}
    circle = {"locks/a/waiters/x": ("b", "a"), "locks/b/waiters/y": ("a", "b")}
    found, to_leave = await _searched(store, time, {**others, **circle})
    assert found == [("a", "b")]
    assert to_leave.cycle == ("a", "b")


async def test_a_circle_of_many_is_found(store: StateStore, time: Time):
    """However many locks a circle goes through, it is found."""
    names = [f"{n:03}" for n in range(MANY)]
    circle = {f"locks/{names[n - 1]}/waiters/{n:03}": (names[n], names[n - 1]) for n in range(MANY)}
    found, to_leave = await _searched(store, time, circle)
    assert [set(each) for each in found] == [set(names)]
    assert set(to_leave.cycle) == set(names)


Graph = Mapping[str, tuple[frozenset[str], frozenset[str]]]


@given(
    st.dictionaries(
        st.sampled_from("wxyz"),
        st.tuples(st.frozensets(st.sampled_from("abc"), max_size=2), st.frozensets(st.sampled_from("abc"), max_size=2)),
    )
)
def test_a_circle_is_found_where_there_is_one(graph: Graph):
    """A circle is found exactly where a waiter can be reached from itself, and each of its steps is a real wait."""
    waiters = {
        owner: Waiter(owner, ticket, tuple(sorted(holds)), tuple(sorted(wants)))
        for ticket, (owner, (holds, wants)) in enumerate(sorted(graph.items()))
    }
    ahead = {a: {b for b in graph if graph[a][1] & graph[b][0]} for a in graph}
    for _ in graph:
        ahead = {a: found.union(*(ahead[b] for b in found)) for a, found in ahead.items()}
    for owner in graph:
        circle = circle_through(owner, waiters)
        assert (circle is not None) == (owner in ahead[owner])
        if circle is not None:
            assert circle.waiters[0].owner == owner
            assert len({each.owner for each in circle.waiters}) == len(circle.waiters)
            for n, (waiter, resource) in enumerate(zip(circle.waiters, circle.resources, strict=True)):
                assert resource in waiter.wants
                assert resource in circle.waiters[(n + 1) % len(circle.waiters)].holds
    found = circles(waiters)
    assert bool(found) == any(owner in ahead[owner] for owner in graph)
    members = [each.owner for circle in found for each in circle.waiters]
    assert len(members) == len(set(members))
    assert circles({owner: each for owner, each in waiters.items() if owner not in members}) == []
    records: dict[str, WaiterRecord] = {}
    for owner, waiter in waiters.items():
        holds = tuple(HeldLock(each, "") for each in waiter.holds)
        records[f"a line/{owner}"] = WaiterRecord(holder="", holds=holds, wants=waiter.wants, ttl=1, ticket=0, n=0)
    assert {f"a line/{owner}" for owner in graph if owner in ahead[owner]} <= entangled(records).keys()
    assert bool(entangled(records)) == bool(found)
