"""An inference request whose process dies while it is scheduled. Its time-out fails it, whoever looks for what is due.

The machine and its time-outs are ready-made: a request may be scheduled for five seconds. Prints::

    Queued -> Scheduled
    the process was killed; the request is Scheduled
    its time-out was taken
      1  Queued     Event: Initialization
      2  Scheduled  Event: Slot assigned
      3  Failed     Timeout after 5000ms
    Completed is refused: Failed is final, and no step leaves it
"""

import os
import signal
import subprocess
import sys
from functools import partial

import anyio

from tai_state import ChangeMetadata, InvalidTransition, StateStore, open_store
from tai_state.machines import Event, PersistentMachine, run_timers
from tai_state.machines.ready import INFERENCE_REQUEST, RequestState

URL = os.environ.get("TAI_STATE_STORE", "sqlite:///requests.db")


def request_in(store: StateStore) -> PersistentMachine[RequestState, None]:
    """The request of this example."""
    return store.machine("inference", "request-1", INFERENCE_REQUEST, metadata=ChangeMetadata("api", ""))


async def schedule() -> None:
    """The first process: it schedules the request, and dies."""
    async with open_store(URL) as store:
        request = request_in(store)
        await request.initialize()
        await request.transition_to(RequestState.Scheduled, Event("Slot assigned"))
        print("Queued -> Scheduled", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


async def has_failed(store: StateStore) -> None:
    """Wait until the request has failed."""
    async with store.watch("inference", "request-1") as changes:
        async for change in changes:
            if change.data is not None and change.data["machine"]["state"] == "Failed":
                return


async def look_after() -> None:
    """Another process, which runs the time-outs of a store. It needs to know nothing of its requests."""
    async with open_store(URL, create=False) as store:
        request = request_in(store)
        print(f"the process was killed; the request is {(await request.get()).state}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(run_timers, store, INFERENCE_REQUEST, every_seconds=0.5))
            await has_failed(store)
            tasks.cancel_scope.cancel()
        print("its time-out was taken")
        async for event in request.history():
            print(f"  {event.version}  {event.to_state!s:9}  {event.reason}")
        try:
            await request.transition_to(RequestState.Completed, Event("Results are there"))
        except InvalidTransition as refused:
            print(f"Completed is refused: {refused.reason}")


if __name__ == "__main__":
    if sys.argv[1:] == ["schedule"]:
        anyio.run(schedule)
    else:
        subprocess.run([sys.executable, __file__, "schedule"], check=False)  # noqa: S603 - this file
        anyio.run(look_after)
