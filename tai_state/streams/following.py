"""Following states: first as they are now, then after each change."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, TypeVar

import anyio

from tai_state.engines.api import Document, DocumentChange, split
from tai_state.engines.watching import listed
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.values.ids import unescape_id
from tai_state.values.states import JsonState

T = TypeVar("T")

STATES_MAX = 500
"""How many states are read at a time."""


class Following(Generic[T]):
    """A watch of states, established while its block runs; the block gets the iterator.

    This is not a generator: one abandoned until the event loop ends would be closed after the engine's watch inside it.

    Args:
        core: the store's core.
        governor_id: the governor of the states.
        state_ids: the states to watch; empty: all states of the governor, future ones included.
        convert: makes what the iterator yields from a state.

    Raises:
        InvalidId: an id cannot be stored.
    """

    def __init__(
        self, core: Core, governor_id: str, state_ids: Sequence[str], convert: Callable[[JsonState], T]
    ) -> None:
        paths = dict.fromkeys(core.layout.stream(governor_id, each).state for each in state_ids)
        self._targets = tuple(paths) or (core.layout.states(governor_id),)
        self._watch: AbstractAsyncContextManager[AsyncIterator[DocumentChange]] | None = None
        self._states: _States[T] | None = None
        self._core = core
        self._governor_id = governor_id
        self._convert = convert

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {listed(self._targets)}>"

    async def __aenter__(self) -> AsyncIterator[T]:
        if self._watch is not None:
            raise RuntimeError("the watch was entered before: call watch() again for another one")
        self._watch = self._core.engine.watch(*self._targets)
        changes = await self._watch.__aenter__()
        self._states = _States(self._core, self._governor_id, changes, self._convert)
        return self._states

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._states is not None:
            self._states.end()
        if self._watch is not None:
            await self._watch.__aexit__(kind, error, traceback)


class _States(AsyncIterator[T], Generic[T]):
    """The states that a watch reports, read in batches.

    A step that is cancelled, or whose read fails, loses nothing. A state that is damaged makes its own step raise an
    error; later steps continue with the other states. Several tasks may step: one of them looks at a time.
    """

    def __init__(
        self, core: Core, governor_id: str, changes: AsyncIterator[DocumentChange], convert: Callable[[JsonState], T]
    ) -> None:
        self._core = core
        self._governor_id = governor_id
        self._changes = changes
        self._convert = convert
        self._told: dict[str, None] = {}
        self._failure: Exception | None = None
        self._read: deque[Document] = deque()
        self._shown: dict[str, int] = {}
        self._looking = anyio.Lock(fast_acquire=True)
        self._waiting: anyio.CancelScope | None = None
        self._is_over = False

    def end(self) -> None:
        """Make every step raise ``RuntimeError``, also the one that waits now."""
        self._is_over = True
        if self._waiting is not None:
            self._waiting.cancel()

    def __repr__(self) -> str:
        at_hand = len(self._read) + len(self._told)
        return f"<watched states of {self._governor_id!r}, {len(self._shown)} shown, {at_hand} at hand>"

    async def __anext__(self) -> T:
        async with self._looking:
            while not self._is_over:
                while self._read:
                    document = self._read.popleft()
                    stream = self._stream(document.path)
                    record = self._core.checked(stream, document)
                    if record.version > self._shown.get(stream.state_id, 0):
                        self._shown[stream.state_id] = record.version
                        return self._convert(self._core.state(stream, record, document.updated_us))
                with anyio.CancelScope() as self._waiting:
                    await self._look()
        raise RuntimeError("the watch is over: use it inside its `async with` block")

    async def _look(self) -> None:
        """Wait for a change, and read the states of all changes that are at hand."""
        if not self._told:
            if self._failure is not None:
                raise self._failure
            self._note(await anext(self._changes))
        with anyio.move_on_after(0):
            try:
                while len(self._told) < STATES_MAX:
                    self._note(await anext(self._changes))
            except Exception as failure:  # noqa: BLE001 - raised after all changes reported before it
                self._failure = failure
        if paths := list(self._told):
            documents = (await self._core.engine.read(paths)).documents
            self._read.extend([each for each in documents if each is not None])
            self._told.clear()

    def _note(self, change: DocumentChange) -> None:
        if change.revision is not None:
            self._told[change.path] = None

    def _stream(self, path: str) -> Stream:
        return self._core.layout.stream(self._governor_id, unescape_id(split(path)[1]))
