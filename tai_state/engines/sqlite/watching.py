"""The watches of one file: what the watcher's thread finds is reported to them here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from tai_state.engines.api import Committed
from tai_state.engines.sqlite.preparing import Prepared
from tai_state.engines.sqlite.watcher import Enter, Leave, Moved, Seen
from tai_state.engines.sqlite.worker import Job, Worker
from tai_state.engines.watching import Watch, Watches
from tai_state.errors import CommitRefused


class FileWatches:
    """All watches of an engine, in its event loop.

    Args:
        start: starts the watcher's thread, which passes each job to :meth:`seen`. The first watch calls it.
    """

    def __init__(self, start: Callable[[], Worker]) -> None:
        self._start = start
        self._worker: Worker | None = None
        self._watches = Watches()
        self._entered: set[Watch] = set()

    @asynccontextmanager
    async def watch(self, targets: Sequence[str]) -> AsyncGenerator[Watch, None]:
        """A watch that gets all changes from its first look until its block ends.

        Nothing wraps this generator in another one: of two that are left open, an event loop may close the inner one
        first, and the outer one would fail.
        """
        worker = self._worker = self._worker or self._start()
        watch = Watch(targets)
        self._watches.add(watch)
        try:
            await worker.do(Enter(watch))
            yield watch
        finally:
            self._watches.remove(watch)
            if watch in self._entered:
                self._entered.discard(watch)
                worker.post(Leave(watch))

    def committed(self, jobs: Sequence[Job[Committed]]) -> None:
        """Ask for a look at the watched documents that commits of this engine have written, or may have written."""
        if self._worker is None or not self._watches:
            return
        written: list[Sequence[Prepared]] = [job.request for job in jobs if not isinstance(job.error, CommitRefused)]
        paths = [
            (target, write.path)
            for writes in written
            for write in writes
            if write.text is not None or write.deletes
            for target in self._watches.targets(write.path)
        ]
        if paths:
            self._worker.post(Moved(paths))

    def seen(self, jobs: Sequence[Job[Seen]]) -> None:
        """Report what each look has found to the watches; if a look at all targets has failed, end the watches."""
        for job in jobs:
            self._seen(job)

    def _seen(self, job: Job[Seen]) -> None:
        request, found = job.request, job.result
        if found is None:
            if job.error is not None and not isinstance(request, Enter):
                self._watches.fail(job.error)
            return
        for target, path, revision in found.moves:
            self._watches.tell(target, path, revision)
        if isinstance(request, Enter) and self._worker is not None:
            if job.abandoned:
                self._worker.post(Leave(request.watch))
                return
            self._entered.add(request.watch)
            for _, path, revision in found.present:
                request.watch.tell(path, revision)

    def close(self, error: Exception) -> list[Worker]:
        """End all watches. Returns the worker, if there is one, for the caller to close."""
        self._watches.fail(error)
        self._entered.clear()
        worker, self._worker = self._worker, None
        return [] if worker is None else [worker]
