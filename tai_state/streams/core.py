"""An opened store, as the rooms of the library use it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

from tai_state.engines.api import Document, Engine
from tai_state.engines.matters import Bounds
from tai_state.errors import GovernorNotFound, InvalidData, StateNotFound
from tai_state.streams.appending import Appender
from tai_state.streams.changes import Fence, Guard
from tai_state.streams.identity import identify
from tai_state.streams.layout import Layout, Stream
from tai_state.streams.planning import Author
from tai_state.streams.reader import StreamReader
from tai_state.streams.records import StateRecord, checked_state, head_of, to_state
from tai_state.streams.settings import Settings
from tai_state.streams.turns import Turns
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import DeletedState, JsonSnapshot, JsonState


class HasCore(Protocol):
    """What the constructors of the library's rooms take: an open store, or its core."""

    @property
    def core(self) -> Core:
        """The opened core, for the library's own rooms; not part of the public interface.

        Raises:
            RuntimeError: the store is not open.
        """
        ...


class Core:
    """What every room shares. It is made by :func:`open_core`, so it is open as long as that block runs.

    Args:
        engine: the waist.
        layout: where documents live.
        settings: how the store is used.
        bounds: for how long a change is looked after.
        store_id: the store's identity.

    Attributes:
        engine: as given.
        layout: as given.
        settings: as given.
        bounds: as given.
        store_id: as given.
        reader: reads streams.
        appender: the one write path.
        turns: taken by the tasks of this process that change the same states.
    """

    def __init__(self, engine: Engine, layout: Layout, settings: Settings, bounds: Bounds, store_id: str) -> None:
        self.engine = engine
        self.layout = layout
        self.settings = settings
        self.store_id = store_id
        self.reader: StreamReader = StreamReader(engine, settings.upcasting)
        self.turns: Turns = Turns(settings.observer)
        self.bounds = bounds
        self.appender: Appender = Appender(
            engine,
            self.reader,
            Author(store_id, settings.upcasting.schema, settings.snapshots),
            settings.clock,
            self.bounds,
            self.turns,
        )

    @property
    def core(self) -> Core:
        """Itself: see :class:`HasCore`."""
        return self

    def who(self, *said: ChangeMetadata | None) -> ChangeMetadata:
        """Who makes a change, and why: what was said nearest to it.

        Args:
            said: with the change, with its transaction, with its handle; None: nothing. The store's own comes last.

        Raises:
            InvalidData: nobody said it.
        """
        for metadata in (*said, self.settings.metadata):
            if metadata is not None:
                return metadata
        raise InvalidData("who makes the change, and why? Pass metadata to the change, to its handle or to open_store")

    def guards(self, fence: Fence | None) -> tuple[Guard, ...]:
        """What a change checks besides its own state.

        Raises:
            InvalidData: the fence is of another store.
        """
        if fence is None:
            return ()
        if fence.store_id != self.store_id:
            raise InvalidData("the lease given as fence is of another store")
        return (fence.guard(),)

    async def require_governor(self, governor_id: str) -> None:
        """See that something was ever written under a governor.

        Raises:
            GovernorNotFound: nothing was.
        """
        path = self.layout.governor(governor_id)
        if (await self.engine.read([path])).documents == (None,):
            raise GovernorNotFound(path)

    async def read_state(self, stream: Stream) -> tuple[Document, StateRecord] | None:
        """A state's document and record, deleted or not, its hash checked; None where there is none.

        Raises:
            CorruptDocument: the data is not what its hash says.
        """
        [document] = (await self.engine.read([stream.state])).documents
        return None if document is None else (document, self.checked(stream, document))

    def checked(self, stream: Stream, document: Document) -> StateRecord:
        """The record of a state's document, whose head is remembered.

        Raises:
            CorruptDocument: the data is not what its hash says.
        """
        record = checked_state(document)
        self.appender.heads.put(stream.state, head_of(record, document.revision))
        return record

    def state(self, stream: Stream, record: StateRecord, recorded_us: int) -> JsonState:
        """What callers get of a record, brought up to date."""
        found = to_state(stream, record, recorded_us)
        if isinstance(found, DeletedState) or self.settings.upcasting.is_current(record.schema):
            return found
        return found.with_data(self.settings.upcasting.state(found.data, record.schema, stream.state))

    def snapshot(self, stream: Stream, record: StateRecord, recorded_us: int) -> JsonSnapshot:
        """As :meth:`state`, of a state that is there.

        Raises:
            StateNotFound: it is deleted.
        """
        found = self.state(stream, record, recorded_us)
        if isinstance(found, DeletedState):
            raise StateNotFound(stream.state)
        return found


@asynccontextmanager
async def open_core(engine: Engine, layout: Layout, settings: Settings) -> AsyncGenerator[Core, None]:
    """Open an engine, and the store on it; both are closed at the block's end.

    Raises:
        StoreNotFound: there is no store, and the settings say not to make one.
        CorruptDocument: there is none to be found, since what it is stored in is damaged.
        IncompatibleFormat: a newer release wrote it.
        StoreUnavailable, StoreTimeout: the engine cannot be reached.
    """
    bounds = Bounds(timeout_seconds=settings.timeout_seconds, jitter=settings.jitter, observer=settings.observer)
    async with engine:
        store_id = await identify(engine, layout, bounds, create=settings.create)
        yield Core(engine, layout, settings, bounds, store_id)
