"""Listening to Firestore: one stream carries the targets of all watches, and is replaced when it breaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, Final, Self

from tai_state.engines.api import NOT_OPEN, DocumentChange
from tai_state.engines.firestore import driver
from tai_state.engines.firestore.channels import Channel, Channels
from tai_state.engines.firestore.errors import code_of, mapped_error, removal_error
from tai_state.engines.firestore.messages import (
    Names,
    microseconds,
    watch_collection,
    watch_documents,
    watch_no_longer,
)
from tai_state.engines.firestore.retrying import pause_seconds
from tai_state.engines.firestore.watching import Target, Watched
from tai_state.engines.watching import listed
from tai_state.errors import StoreTimeout, TaiStateError
from tai_state.values.counting import counted

_log = logging.getLogger("tai_state")

# The kinds of a target's change, as ListenResponse numbers them.
_ADD: Final = 1
_REMOVE: Final = 2
_CURRENT: Final = 3
_RESET: Final = 4


class FirestoreWatch(AsyncIterator[DocumentChange]):
    """One watch as its user sees it, established while its block runs. Yields changes, and waits for the next ones.

    This is not a generator: a watch may be abandoned until the event loop ends, and two parties would then try to close
    the same generator.

    Args:
        listener: reports changes to it.
        watched: what it knows.
        timeout_seconds: how long establishing it may take.
    """

    def __init__(self, listener: Listener, watched: Watched, timeout_seconds: float) -> None:
        self.watched = watched
        self._listener = listener
        self._timeout_seconds = timeout_seconds
        self._error: Exception | None = None
        self._trouble: Exception | None = None
        self._moved = asyncio.Event()

    def __repr__(self) -> str:
        ended = "" if self._error is None else f", ended by {type(self._error).__name__}"
        waiting = counted(self.watched.waiting, "change")
        return f"<{type(self).__name__} of {listed(self.watched.paths)}, {waiting} at hand{ended}>"

    def wake(self) -> None:
        """Wake the user's step, because a change was reported."""
        self._moved.set()

    def trouble(self, error: Exception) -> None:
        """Note an error that passes: the watch goes on. If it cannot be established in time, this is why."""
        self._trouble = error

    def fail(self, error: Exception) -> None:
        """End the watch with an error."""
        self._error = error
        self._moved.set()

    async def __aenter__(self) -> Self:
        """Wait until every target has been reported once.

        Raises:
            StoreUnavailable, StoreTimeout: the watch could not be established.
            RuntimeError: the engine was closed.
        """
        self._listener.add(self)
        try:
            await asyncio.wait_for(self._wait_established(), self._timeout_seconds)
        except BaseException as error:
            await self._listener.remove(self)
            if isinstance(error, TimeoutError):
                raise (self._trouble or StoreTimeout("watch", "DEADLINE_EXCEEDED", "no answer in time")) from error
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._listener.remove(self)

    async def _wait_established(self) -> None:
        while not self.watched.is_established:
            await self._wait()

    async def __anext__(self) -> DocumentChange:
        while (change := self.watched.pop()) is None:
            await self._wait()
        return change

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._moved.clear()
        await self._moved.wait()


class Listener:
    """Keeps the stream open while there is a watch, and no longer.

    A broken stream is replaced, with growing pauses, while there is a watch, and so is a target that Firestore removed.
    Only an error that lasts ends watches: of a stream all of them, of a target its own.
    """

    def __init__(self, names: Names, channels: Channels, metadata: Any) -> None:
        self._names = names
        self._channels = channels
        self._metadata = metadata
        self._ids = count(1)
        self._targets: dict[int, tuple[Target, FirestoreWatch]] = {}
        self._requests: asyncio.Queue[Any] | None = None  # of the present stream
        self._call: Any | None = None  # of the present stream
        self._stop: asyncio.Event | None = None  # of the present task
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = 0  # streams in a row that ended before anything was read from them
        self._is_closed = False

    def add(self, watch: FirestoreWatch) -> None:
        """Start to report a watch's targets to it.

        Raises:
            RuntimeError: the engine is closed.
        """
        if self._is_closed:
            raise RuntimeError(NOT_OPEN)
        for target in watch.watched.targets:
            self._ask(self._number(target, watch), self._requests)
        if self._stop is None and self._targets:
            self._stop = asyncio.Event()
            task = asyncio.create_task(self._listen(self._stop), name="tai-state firestore listener")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def remove(self, watch: FirestoreWatch) -> None:
        """Stop reporting a watch's targets; after the last watch, wait for the end of the stream."""
        self._forget(watch)
        if not self._targets:
            await self.wait_ended()

    def close(self) -> None:
        """End all watches, and with them the stream; there will be no others."""
        self._is_closed = True
        self._fail_all(RuntimeError(NOT_OPEN))

    async def wait_ended(self) -> None:
        """Wait until no stream is left."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _listen(self, stop: asyncio.Event) -> None:
        self._failures = 0
        while not stop.is_set():
            try:
                with self._channels.borrow() as channel:
                    await self._stream(channel, stop)
            except asyncio.CancelledError:
                if not stop.is_set():
                    raise
            except Exception as failure:  # noqa: BLE001 - whatever the driver raises is mapped
                if not stop.is_set():  # otherwise the present watches have another stream
                    self._tell(failure)
            self._failures += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_seconds(self._failures))

    def _tell(self, failure: Exception) -> None:
        error = mapped_error(failure, "watch")
        for _, watch in list(self._targets.values()):
            self._interrupt(watch, error)
        _log.warning("watching is interrupted: %s", code_of(failure))

    def _interrupt(self, watch: FirestoreWatch, error: TaiStateError) -> None:
        """End a watch by an error that lasts; by any other, it goes on."""
        if error.is_transient:
            watch.trouble(error)
        else:
            self._drop(watch, error)

    def _fail_all(self, error: Exception) -> None:
        for _, watch in list(self._targets.values()):
            self._drop(watch, error)

    def _drop(self, watch: FirestoreWatch, error: Exception) -> None:
        self._forget(watch)
        watch.fail(error)

    def _forget(self, watch: FirestoreWatch) -> None:
        for target_id in [each for each, (_, other) in self._targets.items() if other is watch]:
            del self._targets[target_id]
            if self._requests is not None and self._targets:
                self._requests.put_nowait(watch_no_longer(self._names, target_id))
        if not self._targets and self._stop is not None:
            self._stop.set()
            self._stop = None
            if self._call is not None:
                driver.break_off(self._call)

    async def _stream(self, channel: Channel, stop: asyncio.Event) -> None:
        """Run one stream from its first request to its end."""
        requests: asyncio.Queue[Any] = asyncio.Queue()
        for target_id, (target, _) in self._targets.items():
            requests.put_nowait(self._request(target_id, target))
        call, waiting = driver.begin(partial(channel.listen, metadata=self._metadata))
        self._requests, self._call = requests, call
        waiting.append(asyncio.create_task(_send(call, requests)))
        try:
            while not stop.is_set() and (response := await call.read()) is not driver.aio.EOF:
                self._failures = 0
                if response is None:  # the driver could not read a response: begin a new stream
                    break
                self._apply(response)
        finally:
            if self._call is call:  # the next stream may have begun already
                self._requests = self._call = None
            driver.break_off(call)
            requests.put_nowait(None)
            await asyncio.gather(*waiting, return_exceptions=True)

    def _request(self, target_id: int, target: Target) -> Any:
        if target.collection:
            return watch_collection(self._names, target_id, target.collection)
        return watch_documents(self._names, target_id, target.documents)

    def _apply(self, response: Any) -> None:
        kind = response.WhichOneof("response_type")
        if kind == "document_change":
            change = response.document_change
            revision = microseconds(change.document.update_time)
            self._told(change.document.name, revision, change.target_ids)
            self._told(change.document.name, None, change.removed_target_ids)
        elif kind in {"document_delete", "document_remove"}:
            gone = getattr(response, kind)
            self._told(gone.document, None, gone.removed_target_ids or self._having(gone.document))
        elif kind == "target_change":
            self._target_changed(response.target_change)
        elif kind == "filter":
            self._check_count(response.filter)

    def _told(self, name: str, revision: int | None, target_ids: Any) -> None:
        path = self._names.path(name)
        for target_id in target_ids:
            if target_id in self._targets:
                target, watch = self._targets[target_id]
                target.tell(path, revision)
                watch.watched.look(path)
                watch.wake()

    def _having(self, name: str) -> list[int]:
        """The targets that a document is in: a deletion that names no targets is of all of them."""
        path = self._names.path(name)
        return [each for each, (target, _) in self._targets.items() if target.has(path)]

    def _target_changed(self, change: Any) -> None:
        kind = change.target_change_type
        ids = list(change.target_ids) or list(self._targets)
        for target_id in ids:
            if target_id not in self._targets:  # no longer wanted, or its watch was ended by another of its targets
                continue
            target, watch = self._targets[target_id]
            if kind in {_ADD, _RESET}:
                target.begin()
            elif kind == _CURRENT:
                for path in target.end():
                    watch.watched.look(path)
                watch.wake()
            elif kind == _REMOVE:
                self._removed(target_id, change.cause)

    def _removed(self, target_id: int, cause: Any) -> None:
        """Firestore has removed a target: watch it again after a pause, unless the cause lasts."""
        target, watch = self._targets.pop(target_id)
        code = driver.STATUS_NAMES.get(cause.code, "UNKNOWN")
        _log.warning("a watch is interrupted: %s", code)
        error = removal_error(code, cause.message)
        self._interrupt(watch, error)
        if error.is_transient:
            target.removals += 1
            again = self._number(target, watch)
            asyncio.get_running_loop().call_later(pause_seconds(target.removals), self._ask, again, self._requests)

    def _number(self, target: Target, watch: FirestoreWatch) -> int:
        """Give a target an id; under a new one, Firestore reports everything again."""
        target_id = next(self._ids)
        self._targets[target_id] = (target, watch)
        return target_id

    def _ask(self, target_id: int, requests: asyncio.Queue[Any] | None) -> None:
        """Ask for a target, if it is still wanted; a stream that began meanwhile has asked for it already."""
        if requests is not None and requests is self._requests and target_id in self._targets:
            requests.put_nowait(self._request(target_id, self._targets[target_id][0]))

    def _check_count(self, filter_: Any) -> None:
        """Compare Firestore's count of matching documents with ours; if they differ, replace the target."""
        if filter_.target_id not in self._targets or self._requests is None:
            return
        target, watch = self._targets[filter_.target_id]
        if filter_.count != sum(each is not None for each in target.revisions.values()):
            del self._targets[filter_.target_id]
            self._requests.put_nowait(watch_no_longer(self._names, filter_.target_id))
            self._ask(self._number(target, watch), self._requests)


async def _send(call: Any, requests: asyncio.Queue[Any]) -> None:
    """Send requests until a None comes, or the stream ends; the reader of the stream gets its error."""
    with suppress(Exception):
        while (request := await requests.get()) is not None:
            await call.write(request)
