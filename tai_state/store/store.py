"""The store: a service's way to its machines' states."""

from __future__ import annotations

import uuid
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import Any, Self, TypeVar, overload

from tai_state.engines.api import ABSENT, Put
from tai_state.errors import CommitRefused, CorruptDocument, IncompatibleFormat, StoreNotFound
from tai_state.store.appending import Appender
from tai_state.store.handle import Codec, StateHandle
from tai_state.store.planning import Writer
from tai_state.store.reading import StateReading
from tai_state.store.records import STORE, StoreRecord
from tai_state.store.shortcuts import Shortcuts
from tai_state.store.snapshots import SnapshotKeeping
from tai_state.store.writing import StateWriting

D = TypeVar("D")

FORMAT = 1
"""The version of the documents' format; ``docs/format.md`` describes it."""


@lru_cache(maxsize=256)
def _codec(model: type[Any] | None) -> Codec[Any]:
    """Codecs are costly to make and hold nothing of a store: one for each model will do."""
    return Codec(model)


class StateStore(StateWriting, StateReading, SnapshotKeeping, Shortcuts):
    """Keeps the states of machines, and the events that explain them, on one engine.

    Made by :func:`~tai_state.open_store`; used with ``async with``, from the tasks of one event loop.
    """

    async def __aenter__(self) -> Self:
        self._open = AsyncExitStack()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.engine)
            self.store_id: str = await self._identity()
            settings = self.settings
            self.appender: Appender = Appender(
                self.engine,
                self.streams,
                Writer(self.store_id, settings.upcasting.schema, settings.snapshots),
                settings.clock,
                settings.timeout_seconds,
                settings.jitter,
            )
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._open.aclose()

    @overload
    def state(self, governor_id: str, state_id: str) -> StateHandle[dict[str, Any]]: ...
    @overload
    def state(self, governor_id: str, state_id: str, model: type[D]) -> StateHandle[D]: ...
    def state(self, governor_id: str, state_id: str, model: type[Any] | None = None) -> StateHandle[Any]:
        """A handle on one state, its data as a model (pydantic's, a dataclass, a TypedDict) or as plain JSON.

        Raises:
            InvalidId: the ids cannot be stored.
        """
        key: Any = model
        return StateHandle(self, governor_id, state_id, _codec(key))

    async def _identity(self) -> str:
        """The store's id, made when the store is.

        Raises:
            StoreNotFound: there is no store, and none is to be made.
            CorruptDocument: nor can one be found, since what it is stored in is damaged.
            IncompatibleFormat: it was written by a newer release.
        """
        path = self.layout.store
        for _ in range(2):
            [document] = (await self.engine.read([path])).documents
            if document is not None:
                record = document.decode(STORE)
                if record.format > FORMAT:
                    raise IncompatibleFormat(
                        path,
                        f"has format {record.format}, this release reads up to {FORMAT}: upgrade tai-state",
                    )
                return record.store_id
            if not self.settings.create:
                raise await self._absence(path)
            record = StoreRecord(uuid.uuid4().hex[:16], FORMAT)
            try:
                await self.engine.commit([Put(path, record, ABSENT)])
            except CommitRefused:
                continue  # another process was first: its id is the store's
            return record.store_id
        raise IncompatibleFormat(path, "appears and disappears: is another program writing here?")

    async def _absence(self, path: str) -> StoreNotFound | CorruptDocument:
        """What it means that the store's own document is not found."""
        for damage in await self.engine.self_check():
            return damage
        return StoreNotFound(path)
