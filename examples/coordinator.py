"""A coordinator of a cluster whose process is killed in the middle of a request, and goes on where it was.

The machine is ready-made: its rules demand that results are committed before the next request. Prints::

    node-1: Ready -> Computing
    node-1: Computing -> Aggregating
    the process was killed; another one finds node-1 in Aggregating, epoch 0
    node-1: Ready is refused: Must commit before returning to Ready
    node-1: Aggregating -> Committing
    node-1: Committing -> Ready
    epoch 1
    node-1: Ready -> Degraded
    node-1: Degraded -> Recovering
      1  Ready        Event: Initialization
      2  Computing    Event: Inference request received
      3  Aggregating  Event: Workers acknowledged assignment
      4  Committing   Event: Results aggregated
      5  Ready        Event: Inference completed
      6  Degraded     Failure of node-7: Heartbeat timeout
      7  Recovering   Event: Recovery initiated
"""

import os
import signal
import subprocess
import sys

import anyio

from tai_state import ChangeMetadata, InvalidTransition, StateStore, open_store
from tai_state.machines import Event, Failure, PersistentMachine, Trigger
from tai_state.machines.ready import COORDINATOR, CoordinatorState

URL = os.environ.get("TAI_STATE_STORE", "sqlite:///cluster.db")
NODE = "node-1"

Coordinator = PersistentMachine[CoordinatorState, None]


def coordinator_in(store: StateStore) -> Coordinator:
    """The coordinator of this node."""
    return store.machine("cluster", NODE, COORDINATOR, metadata=ChangeMetadata(NODE, ""))


async def step(coordinator: Coordinator, to: CoordinatorState, trigger: Trigger) -> None:
    """Take a step, and say so."""
    before = (await coordinator.get()).state
    after = await coordinator.transition_to(to, trigger)
    print(f"{NODE}: {before} -> {after.state}", flush=True)


async def begin_a_request() -> None:
    """The first process: it begins a request, and dies."""
    async with open_store(URL) as store:
        coordinator = coordinator_in(store)
        await coordinator.initialize(initial=CoordinatorState.Ready)
        await step(coordinator, CoordinatorState.Computing, Event("Inference request received"))
        await step(coordinator, CoordinatorState.Aggregating, Event("Workers acknowledged assignment"))
        os.kill(os.getpid(), signal.SIGKILL)


async def go_on() -> None:
    """The next process: whatever was acknowledged is there."""
    async with open_store(URL, create=False) as store:
        coordinator = coordinator_in(store)
        found = await coordinator.get()
        print(f"the process was killed; another one finds {NODE} in {found.state}, epoch {found.epoch}")
        try:
            await coordinator.transition_to(CoordinatorState.Ready, Event("Inference completed"))
        except InvalidTransition as refused:
            print(f"{NODE}: Ready is refused: {refused.reason}")
        await step(coordinator, CoordinatorState.Committing, Event("Results aggregated"))
        await step(coordinator, CoordinatorState.Ready, Event("Inference completed"))
        print(f"epoch {(await coordinator.get()).epoch}")

        await step(coordinator, CoordinatorState.Degraded, Failure("node-7", "Heartbeat timeout"))
        await step(coordinator, CoordinatorState.Recovering, Event("Recovery initiated"))
        async for event in coordinator.history():
            print(f"  {event.version}  {event.to_state!s:11}  {event.reason}")


if __name__ == "__main__":
    if sys.argv[1:] == ["begin"]:
        anyio.run(begin_a_request)
    else:
        subprocess.run([sys.executable, __file__, "begin"], check=False)  # noqa: S603 - this file
        anyio.run(go_on)
