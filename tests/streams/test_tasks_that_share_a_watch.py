"""Several tasks step one watch: no change is lost between them, and leaving the block ends the steps of all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tai_state import StateStore
from tai_state.engines.api import Reading

from ..support.stores import GOVERNOR, METADATA, AroundEngine, Place, Places

pytestmark = pytest.mark.anyio


class Gated(AroundEngine):
    """Once it is closed, the answer to each read is that of the moment of the call, and waits for its gate."""

    gates: list[anyio.Event]
    is_closed = False

    async def read(self, paths: Sequence[str]) -> Reading:
        """Read, and wait at a gate."""
        answer = await self._engine.read(paths)
        if self.is_closed:
            self.gates.append(gate := anyio.Event())
            await gate.wait()
        return answer

    async def reached(self, number: int) -> None:
        """Wait until so many reads wait at their gates."""
        with anyio.fail_after(10):
            while len(self.gates) < number:
                await anyio.lowlevel.checkpoint()

    def open(self) -> None:
        """Let all answers through, and those that follow."""
        self.is_closed = False
        for gate in self.gates:
            gate.set()


async def take(states: AsyncIterator[Any], seen: dict[str, int], done: anyio.Event, wanted: dict[str, int]) -> None:
    """Note what a watch gives, until all that is wanted was given."""
    async for state in states:
        seen[state.state_id] = state.version
        if seen == wanted:
            done.set()


async def two_tasks(memory_places: Places, *, is_cancelled: bool) -> None:
    """While one task's read is under way, another is told of the next change, and perhaps cancelled; none is lost."""
    place = memory_places.new()
    engine: Any = Gated(place.engine())
    engine.gates = []
    async with place.store(engine) as store, place.store() as other:
        for state_id in "ab":
            await store.save_state(GOVERNOR, state_id, {"n": 0}, METADATA)
        seen, done, scope = {"a": 1, "b": 1}, anyio.Event(), anyio.CancelScope()
        wanted = {"a": 2, "b": 2} if is_cancelled else {"a": 3, "b": 1}
        async with store.watch(GOVERNOR, "a", "b") as states, anyio.create_task_group() as tasks:
            await anext(states)
            await anext(states)
            engine.is_closed = True

            async def second() -> None:
                with scope:
                    await take(states, seen, done, wanted)

            tasks.start_soon(take, states, seen, done, wanted)
            if not is_cancelled:
                tasks.start_soon(second)
            await anyio.wait_all_tasks_blocked()
            await change(other, "a", 1)
            await engine.reached(1)
            if is_cancelled:
                await change(other, "b", 1)
                tasks.start_soon(second)
                await anyio.wait_all_tasks_blocked()
            else:
                await change(other, "a", 2)
            engine.gates[0].set()
            await anyio.wait_all_tasks_blocked()
            if is_cancelled:
                scope.cancel()
                await anyio.wait_all_tasks_blocked()
            engine.open()
            with anyio.fail_after(10):
                await done.wait()
            tasks.cancel_scope.cancel()


async def test_no_newest_version_is_lost_between_two_tasks(memory_places: Places):
    """A change that one task notes while the other one reads an older version comes to one of them."""
    await two_tasks(memory_places, is_cancelled=False)


async def test_no_newest_version_is_lost_with_a_cancelled_task(memory_places: Places):
    """A change that a cancelled task had noted comes to the other one."""
    await two_tasks(memory_places, is_cancelled=True)


async def change(store: StateStore, state_id: str, version: int) -> None:
    """Write the next version of a state."""
    await store.update_state(GOVERNOR, state_id, {"n": version}, METADATA, expected=version)


async def test_leaving_the_block_ends_every_step(place: Place):
    """A step that waits in another task raises when the block is left: that task would wait for ever."""
    failures: list[str] = []

    async def step(states: AsyncIterator[Any], started: anyio.Event) -> None:
        started.set()
        with pytest.raises(RuntimeError, match="the watch is over") as raised:
            await anext(states)
        failures.append(str(raised.value))

    async with place.store() as store:
        await store.save_state(GOVERNOR, "a", {"n": 0}, METADATA)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks, store.watch(GOVERNOR, "a") as states:
                await anext(states)
                for _ in range(3):
                    started = anyio.Event()
                    tasks.start_soon(step, states, started)
                    await started.wait()
    assert len(failures) == 3
