"""An opened store, as the parts of the library use it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

from tai_state.engines.api import Document, Engine, Scan
from tai_state.engines.matters import Bounds
from tai_state.engines.paging import take
from tai_state.errors import GovernorNotFound, InvalidData, StateNotFound
from tai_state.streams.appending import Appender
from tai_state.streams.changes import Fence, Guard
from tai_state.streams.identity import identify
from tai_state.streams.layout import Layout, Stream
from tai_state.streams.planning import Author
from tai_state.streams.policies import apart
from tai_state.streams.reader import StreamReader
from tai_state.streams.records import StateRecord, checked_state, head_of, to_state
from tai_state.streams.settings import Settings
from tai_state.streams.turns import Turns
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import DeletedState, JsonSnapshot, JsonState


class HasCore(Protocol):
    """The argument that the library's constructors take: an open store, or its core."""

    @property
    def core(self) -> Core:
        """The opened core, for the library's own use; not part of the public interface.

        Raises:
            RuntimeError: the store is not open.
        """
        ...


def core_of(store: HasCore) -> Core:
    """The core of what was given as a store.

    Raises:
        InvalidData: it is not a store.
        RuntimeError: it is not open.
    """
    core: object = getattr(store, "core", None)
    if not isinstance(core, Core):
        raise InvalidData(f"an open store is needed, not {type(store).__name__}")
    return core


class Core:
    """The shared part of an open store. :func:`open_core` makes it, and it is open while that block runs.

    Args:
        engine: the store's engine.
        layout: the paths of the documents.
        settings: the store's settings.
        bounds: how long and how often a change is tried.
        store_id: the store's id.

    Attributes:
        engine: as given.
        layout: as given.
        settings: as given.
        bounds: as given.
        store_id: as given.
        reader: reads streams.
        appender: the one write path.
        turns: the turns of this process's tasks that change the same states.
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
            Author(store_id, settings.upcasting.schema, apart(settings.snapshots)),
            settings.clock,
            replace(bounds, kind="states"),
            self.turns,
        )

    @property
    def core(self) -> Core:
        """The core itself; see :class:`HasCore`."""
        return self

    def who(self, *said: ChangeMetadata | None) -> ChangeMetadata:
        """Who makes a change, and why: the first metadata that is given, else the store's own.

        Args:
            said: the metadata of the change, of its transaction and of its handle, in this order.

        Raises:
            InvalidData: none is given, and the store has none.
        """
        for metadata in said:
            if metadata is not None:
                return metadata
        if self.settings.metadata is not None:
            return self.settings.metadata
        raise InvalidData("who makes the change, and why? Pass metadata to the change, to its handle or to open_store")

    def guards(self, fence: Fence | None) -> tuple[Guard, ...]:
        """The guards of a change with this fence.

        Raises:
            InvalidData: the fence is not a lease, or belongs to another store.
        """
        if fence is None:
            return ()
        store_id: object = getattr(fence, "store_id", None)
        if type(store_id) is not str:
            raise InvalidData(f"fence must be a lease, not {type(fence).__name__}")
        if store_id != self.store_id:
            raise InvalidData("the lease given as fence belongs to another store")
        try:
            guard: object = fence.guard()
        except AttributeError:
            if hasattr(fence, "guard"):
                raise
            raise InvalidData(f"fence must be a lease, not {type(fence).__name__}") from None
        if not isinstance(guard, Guard):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidData(f"the guard of a fence must be a Guard, not {type(guard).__name__}")
        return (guard,)

    async def require_governor(self, governor_id: str) -> None:
        """Check that the governor exists.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
        """
        layout, path = self.layout, self.layout.governor(governor_id)
        if (await self.engine.read([path, layout.restore(governor_id)])).documents != (None, None):
            return
        for collection in (layout.states(governor_id), layout.events(governor_id)):  # its document may have been lost
            if await take(self.engine.scan(Scan(collection, limit=1)), 1):
                return
        raise GovernorNotFound(path)

    async def read_state(self, stream: Stream) -> tuple[Document, StateRecord] | None:
        """Read a state's document and record, deleted or not, and check its hash; None if it was never written.

        Raises:
            CorruptDocument: the data does not match its hash.
        """
        [document] = (await self.engine.read([stream.state])).documents
        return None if document is None else (document, self.checked(stream, document))

    def checked(self, stream: Stream, document: Document) -> StateRecord:
        """The record of a state's document; its head is remembered.

        Raises:
            CorruptDocument: the data does not match its hash.
        """
        record = checked_state(document)
        self.appender.heads.put(stream.state, head_of(record, document.revision))
        return record

    def state(self, stream: Stream, record: StateRecord, recorded_us: int) -> JsonState:
        """The state as callers get it, in the present schema."""
        found = to_state(stream, record, recorded_us)
        if isinstance(found, DeletedState) or self.settings.upcasting.is_current(record.schema):
            return found
        return found.with_data(self.settings.upcasting.state(found.data, record.schema, stream, stream.state))

    def snapshot(self, stream: Stream, record: StateRecord, recorded_us: int) -> JsonSnapshot:
        """As :meth:`state`, for a state that is not deleted.

        Raises:
            StateNotFound: it is deleted.
        """
        found = self.state(stream, record, recorded_us)
        if isinstance(found, DeletedState):
            raise StateNotFound(stream.state)
        return found


@asynccontextmanager
async def open_core(engine: Engine, layout: Layout, settings: Settings) -> AsyncGenerator[Core, None]:
    """Open an engine and the store on it; both are closed at the end of the block.

    Raises:
        StoreNotFound: there is no store, and the settings say not to create one.
        CorruptDocument: the store's storage, or its own document, is damaged; or that document is missing.
        IncompatibleFormat: a newer release wrote the store.
        StoreUnavailable, StoreTimeout: the engine cannot be reached.
    """
    bounds = Bounds(timeout_seconds=settings.timeout_seconds, jitter=settings.jitter, observer=settings.observer)
    async with engine:
        store_id = await identify(engine, layout, bounds, create=settings.create, report=settings.unidentified)
        yield Core(engine, layout, settings, bounds, store_id)
