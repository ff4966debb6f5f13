"""A nightly job that many workers try to do and one does: a lock with a lease, and a fence against late workers.

Five workers start at once, and each acquires the lock in turn. The one that holds it checks whether the night's work is
already done, and does it if not. A worker that was stopped for longer than its lease lasts still believes that it holds
the lock, but its write is refused. Prints::

    the job ran 1 time, 4 workers found it done
    a worker that comes too late: LockLost
    done by one worker, version 1
"""

import anyio

from tai_state import ChangeMetadata, LockLost, StateNotFound, StateStore, open_store

URL = "sqlite:///jobs.db"


async def nightly(worker: str, store: StateStore, ran: list[str], found: list[str]) -> None:
    """Do the night's work, unless another worker has done it."""
    async with store.lock("nightly report", ttl_seconds=30.0, holder=worker) as lease:
        try:
            await store.get_state("jobs", "report-2026-11-22")
            found.append(worker)
        except StateNotFound:
            ran.append(worker)
            who = ChangeMetadata(worker, "the nightly report")
            await store.save_state("jobs", "report-2026-11-22", {"rows": 1_204}, who, fence=lease)


async def main() -> None:
    """Run several workers, then one that was asleep."""
    ran: list[str] = []
    found: list[str] = []
    async with open_store(URL) as store:
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(nightly, f"worker {number}", store, ran, found)
        print(f"the job ran {len(ran)} time, {len(found)} workers found it done")

        # This worker acquires the lock and then sleeps for hours; meanwhile an operator breaks its lock.
        late = await store.locks.acquire_lock("nightly report", holder="worker 9")
        await store.locks.break_lock("nightly report")
        try:
            who = ChangeMetadata("worker 9", "the nightly report")
            await store.update_state("jobs", "report-2026-11-22", {"rows": 0}, who, expected=1, fence=late)
        except LockLost as error:
            print(f"a worker that comes too late: {type(error).__name__}")
        state = await store.get_state("jobs", "report-2026-11-22")
        print(f"done by one worker, version {state.version}")


anyio.run(main)
