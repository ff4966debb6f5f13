"""One step of a stored machine: its callbacks run on the version just read, and what became of it is one commit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import NoReturn, TypeAlias

import msgspec

from tai_state.adapters.charts import Chart, sealed
from tai_state.adapters.turning import callbacks_of, turn
from tai_state.engines.matters import contention_error
from tai_state.errors import VersionConflict
from tai_state.streams import writing
from tai_state.streams.changes import Appended, Change, Fence, Known, always, append_of, separately
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition
from tai_state.streams.records import EMPTY, head_of
from tai_state.streams.repeating import COMPUTED
from tai_state.streams.writing import Intent
from tai_state.values.expected import Expected
from tai_state.values.json import normalise_object

Run: TypeAlias = Callable[[Known], Awaitable[Chart]]
"""Runs the callbacks of a machine on what was read of it. The machine after that."""


class Sending:
    """A step, from the look at the machine to the commit.

    Args:
        core: the store's core.
        stream: the stream of the machine.
        intent: what the event of the step says.
        run: runs the callbacks.
        expected: what the caller believes the version to be.
        fence: a lease; the step is taken only while its lock is held.
        must_live: whether there must be a machine.

    Raises:
        InvalidId, InvalidData: a part of the event cannot be stored.
    """

    def __init__(
        self,
        core: Core,
        stream: Stream,
        intent: Intent,
        run: Run,
        expected: Expected,
        fence: Fence | None,
        *,
        must_live: bool,
    ) -> None:
        self._core = core
        self._stream = stream
        self._run = run
        self._guards = core.guards(fence)
        self._made = writing.draft(core, stream, intent, state=COMPUTED)
        self._marker = None if intent.event_id is None else stream.marker(intent.event_id)
        self._append = append_of(stream, expected, (self._made,), needs_state=True, must_live=must_live)

    async def done(self) -> Appended:
        """Take the step.

        The callbacks run on the version that was just read, while this task has the machine's turn. If another process
        was faster, they run again on what it wrote. They do not run if the step was recorded before, or must not be
        taken whatever they would say.

        Raises:
            StoreTimeout: other writers were faster each time.
            VersionConflict, StateNotFound, IdempotencyConflict, CommitOutcomeUnknown: as for every change.
            TaiStateError: the error of a guard that does not hold.
            Exception: whatever a callback raised.
        """
        bounds = self._core.bounds
        deadline = inf
        async with turn(self._core.turns, self._stream.state):
            for attempt in range(bounds.attempts_max):
                if attempt:
                    await bounds.sleep(bounds.pause_seconds(attempt - 1, 0.0))
                try:
                    return await self._tried()
                except _ChangedError:
                    continue
                except VersionConflict:
                    if self._append.has_version:
                        raise
                deadline = min(deadline, bounds.monotonic() + bounds.timeout_seconds)
                if bounds.monotonic() >= deadline:
                    break
        raise contention_error()

    async def _tried(self) -> Appended:
        """Read, run the callbacks, and commit at the version that was read."""
        known = await self._looked()
        if isinstance(known, Appended):
            return known
        with callbacks_of(self._stream.state):
            chart = await self._run(known)
        text, data = normalise_object(sealed(chart), "the machine")
        composition = Composition((msgspec.structs.replace(self._made, state=text, carries_state=True),), data)
        append = msgspec.structs.replace(self._append, expected=known.head.version, seen=known)
        return await self._appended(Change((append,), always(composition), self._guards, is_in_turn=True))

    async def _looked(self) -> Known | Appended:
        """What there is to run the callbacks on; or the result of an earlier call with the same id.

        Raises:
            TaiStateError: the step must not be taken, whatever the callbacks would say.
        """
        core, path = self._core, self._stream.state
        paths = [path, *(guard.path for guard in self._guards), *([] if self._marker is None else [self._marker])]
        documents = dict(zip(paths, (await core.engine.read(paths)).documents, strict=True))
        document = documents[path]
        known = Known(EMPTY)
        if document is not None:
            record = core.checked(self._stream, document)
            known = Known(head_of(record, document.revision), record.data)
        is_new = self._marker is None or documents[self._marker] is None
        if is_new and self._append.fits(known.head) and all(each.holds(documents[each.path]) for each in self._guards):
            return known
        return await self._appended(Change((self._append,), separately(_changed), self._guards, is_in_turn=True))

    async def _appended(self, change: Change) -> Appended:
        [done] = await self._core.appender.append(change)
        if done is None:
            raise AssertionError("compose always says something here")
        return done


class _ChangedError(Exception):
    """What stood in the way of a step is gone since: look again."""


def _changed(_known: Known) -> NoReturn:
    raise _ChangedError
