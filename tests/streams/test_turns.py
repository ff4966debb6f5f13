"""Turns: who waits for one, in which order, and what becomes of it where a task is cancelled or waits too long."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tai_state.streams import turns as module
from tai_state.streams.turns import Turns
from tai_state.testing.checking import let_others_run

pytestmark = pytest.mark.anyio


async def test_turns_are_given_in_the_order_of_asking():
    """Of several tasks that wait for one turn, the one that has waited longest has it next, and each has it alone."""
    turns, had = Turns(), []

    async def take(number: int) -> None:
        async with turns.of(["a"]):
            had.append(number)
            await checkpoint()
            had.append(number)

    async with anyio.create_task_group() as tasks, turns.of(["a"]):
        for number in range(3):
            tasks.start_soon(take, number)
            await let_others_run(3)
        assert had == []
    assert had == [0, 0, 1, 1, 2, 2]
    assert not turns._turns


async def test_a_task_that_is_cancelled_waits_no_longer():
    """A task that is cancelled while it waits gives back what it holds, and nobody waits for it."""
    turns, had = Turns(), []

    async def take() -> None:
        async with turns.of(["a", "b"]):
            had.append("both")

    async with anyio.create_task_group() as tasks, turns.of(["b"]):
        tasks.start_soon(take)
        await let_others_run(3)
        assert set(turns._turns) == {"a", "b"}
        tasks.cancel_scope.cancel()
    assert (had, turns._turns) == ([], {})


async def test_a_turn_given_to_a_cancelled_task_is_given_to_the_next():
    """Where a task is cancelled just when it is given a turn, the next one has it."""
    turns, had = Turns(), []

    async def take(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            async with turns.of(["a"]):
                await checkpoint()
                had.append(name)

    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()
        async with turns.of(["a"]):
            tasks.start_soon(take, "cancelled", scope)
            await let_others_run(3)
            tasks.start_soon(take, "next", anyio.CancelScope())
            await let_others_run(3)
        scope.cancel()
    assert (had, turns._turns) == (["next"], {})


async def test_a_task_that_waits_too_long_goes_on_without(monkeypatch: pytest.MonkeyPatch):
    """Nothing rests on turns: after a while a task goes on without one, and gives none back."""
    monkeypatch.setattr(module, "WAIT_SECONDS_MAX", 0.0)
    turns = Turns()
    async with turns.of(["a"]):
        async with turns.of(["a", "b"]):
            assert set(turns._turns) == {"a", "b"}
        assert set(turns._turns) == {"a"}
    assert not turns._turns


async def test_a_task_waits_on_while_its_turn_moves_on(monkeypatch: pytest.MonkeyPatch):
    """Behind other tasks, a task waits for longer than the limit, which counts anew each time the turn moves on."""
    limits: list[anyio.CancelScope] = []

    def limit(_seconds: float) -> anyio.CancelScope:
        limits.append(anyio.CancelScope())
        return limits[-1]

    monkeypatch.setattr(anyio, "move_on_after", limit)
    turns, had, is_done = Turns(), [], anyio.Event()

    async def take(name: str) -> None:
        async with turns.of(["a"]):
            had.append(name)
            await is_done.wait()

    async with anyio.create_task_group() as tasks:
        async with turns.of(["a"]):
            tasks.start_soon(take, "first")
            await let_others_run(3)
            tasks.start_soon(take, "last")
            await let_others_run(3)
        await let_others_run(3)
        limits[1].cancel()
        await let_others_run(3)
        assert had == ["first"]
        limits[2].cancel()
        await let_others_run(3)
        assert had == ["first", "last"]
        is_done.set()
    assert not turns._turns
