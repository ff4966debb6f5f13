"""The store: a service's way to its machines' states."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from pydantic import TypeAdapter
from typing_extensions import TypeForm

from tai_state.engines.api import Engine
from tai_state.engines.paging import Paged
from tai_state.history.persister import StateMachinePersister
from tai_state.history.recovery import RecoveryReport
from tai_state.locks.lease import Lease
from tai_state.locks.locking import LockManager
from tai_state.store.handle import StateHandle
from tai_state.streams import reading, snapshots, writing
from tai_state.streams.changes import Fence
from tai_state.streams.codec import codec_of
from tai_state.streams.core import Core, open_core
from tai_state.streams.following import Following
from tai_state.streams.layout import Layout
from tai_state.streams.reading import StoreStats
from tai_state.streams.settings import Settings
from tai_state.streams.writing import Intent
from tai_state.transactions.manager import TransactionManager
from tai_state.transactions.transaction import Transaction
from tai_state.values.events import JsonEvent
from tai_state.values.expected import EXISTS, NO_STATE, Expected
from tai_state.values.metadata import ChangeMetadata, check_default
from tai_state.values.states import DeletedState, JsonSnapshot, JsonState

D = TypeVar("D")
R = TypeVar("R")


class StateStore:
    """Keeps the states of machines, and the events that explain them, on one engine.

    Made by :func:`~tai_state.open_store`; used with ``async with``, from the tasks of one event loop.
    """

    def __init__(self, engine: Engine, layout: Layout, settings: Settings) -> None:
        self._engine = engine
        self._layout = layout
        self._settings = settings
        self._opened: _Opened | None = None
        self._opening: AbstractAsyncContextManager[Core] | None = None

    def __repr__(self) -> str:
        folder = self._layout.governors.rpartition("/")[0]
        where = f"{self._engine}, below {folder}" if folder else str(self._engine)
        if self._opened is None:
            return f"<{type(self).__name__} {where}, closed>"
        return f"<{type(self).__name__} {where}, open, {len(self.core.appender.heads)} heads>"

    async def __aenter__(self) -> Self:
        if self._opening is not None:
            raise RuntimeError("the store is open already: use it inside its `async with` block, and open another one")
        self._opening = open_core(self._engine, self._layout, self._settings)
        try:
            self._opened = _Opened(await self._opening.__aenter__())
        except BaseException:
            self._opening = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        opening, self._opening, self._opened = self._opening, None, None
        if opening is not None:
            await opening.__aexit__(kind, error, traceback)

    # What it is made of ----------------------------------------------------------------------------------------

    @property
    def core(self) -> Core:
        """The opened core, for the library's own rooms; not part of the public interface.

        Raises:
            RuntimeError: the store is not open.
        """
        return self._rooms.core

    @property
    def transactions(self) -> TransactionManager:
        """The manager of this store's transactions; it remembers what became of the last ones."""
        return self._rooms.transactions

    @property
    def locks(self) -> LockManager:
        """The manager of this store's locks; it remembers which of them it saw standing still."""
        return self._rooms.locks

    @property
    def store_id(self) -> str:
        """This store's identity: the name of its component in vector clocks."""
        return self.core.store_id

    @overload
    def state(
        self, governor_id: str, state_id: str, model: None = None, *, metadata: ChangeMetadata | None = None
    ) -> StateHandle[dict[str, Any]]: ...
    @overload  # a class is a type form, but not to checkers from before PEP 747
    def state(
        self, governor_id: str, state_id: str, model: type[D], *, metadata: ChangeMetadata | None = None
    ) -> StateHandle[D]: ...
    @overload
    def state(
        self, governor_id: str, state_id: str, model: TypeAdapter[D], *, metadata: ChangeMetadata | None = None
    ) -> StateHandle[D]: ...
    @overload
    def state(
        self, governor_id: str, state_id: str, model: TypeForm[D], *, metadata: ChangeMetadata | None = None
    ) -> StateHandle[D]: ...
    def state(
        self, governor_id: str, state_id: str, model: object = None, *, metadata: ChangeMetadata | None = None
    ) -> StateHandle[Any]:
        """A handle on one state, its data as a model or as plain JSON.

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            model: a pydantic model, a dataclass, a TypedDict, or a union of them; or pydantic's ``TypeAdapter`` of one.
                None: plain JSON.
            metadata: who makes the handle's changes and why, unless a change or its transaction says it; by default
                the store's own.

        Raises:
            InvalidId: the ids cannot be stored.
            InvalidData: the metadata cannot be stored.
        """
        stream = self._layout.stream(governor_id, state_id)
        return StateHandle(self, stream, codec_of(model), check_default(metadata))

    # Changing states -------------------------------------------------------------------------------------------

    async def save_state(
        self,
        governor_id: str,
        state_id: str,
        data: dict[str, Any],
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected = NO_STATE,
        action: str = "save",
        payload: Any = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> JsonSnapshot:
        """Write a state, by default one that is not there yet.

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            data: a JSON object, the whole new state.
            metadata: who and why; the store's own, if not given.
            expected: what the writer believes the version to be.
            action: what happened; the event's name.
            payload: any JSON value, kept with the event and no part of the state.
            event_id: the caller's own, so that the same call again changes nothing and returns the first result.
            timestamp: when it happened; now, if not given.
            fence: a lease; the change happens only as long as its lock is held.

        Returns:
            The state as written, its new version inside.

        Raises:
            LockLost: the lease given as fence is over; nothing was written.
            VersionConflict, StateNotFound: the state is not what was expected; nothing was written.
            IdempotencyConflict: the event id already stands for something else.
            CommitOutcomeUnknown: no answer in time; call again with the same ``event_id``.
            InvalidId, InvalidData, DocumentTooLarge: the input cannot be stored; nothing was sent.
            StoreUnavailable, StoreTimeout: nothing was written.
        """
        intent = Intent(self.core.who(metadata), action, event_id, timestamp, payload)
        return await writing.save(self.core, self._layout.stream(governor_id, state_id), data, intent, expected, fence)

    async def update_state(
        self,
        governor_id: str,
        state_id: str,
        data: dict[str, Any],
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected,
        action: str = "update",
        payload: Any = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> JsonSnapshot:
        """Write a state anew. As :meth:`save_state`, but what is expected must be said."""
        intent = Intent(self.core.who(metadata), action, event_id, timestamp, payload)
        return await writing.save(self.core, self._layout.stream(governor_id, state_id), data, intent, expected, fence)

    async def delete_state(
        self,
        governor_id: str,
        state_id: str,
        metadata: ChangeMetadata | None = None,
        *,
        expected: Expected,
        action: str = "delete",
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> DeletedState:
        """Delete a state: one more event. Its history stays, and writing it again goes on at the next version.

        Returns:
            What stands: no data, and the version of the deletion.

        Raises:
            StateNotFound: there is nothing to delete. Otherwise as :meth:`save_state`.
        """
        intent = Intent(self.core.who(metadata), action, event_id, timestamp)
        return await writing.delete(self.core, self._layout.stream(governor_id, state_id), intent, expected, fence)

    async def log_event(
        self,
        governor_id: str,
        state_id: str,
        action: str,
        metadata: ChangeMetadata | None = None,
        *,
        payload: Any = None,
        expected: Expected = EXISTS,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        fence: Fence | None = None,
    ) -> JsonEvent:
        """Record that something happened to a state and left it as it is. The version moves all the same.

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            action: what happened.
            metadata: as for :meth:`save_state`.
            payload: any JSON value, kept with the event.
            expected: what the writer believes the version to be.
            event_id: as for :meth:`save_state`.
            timestamp: when it happened; now, if not given.
            fence: as for :meth:`save_state`.

        Raises:
            StateNotFound: there is no state to log about. Otherwise as :meth:`save_state`.
        """
        intent = Intent(self.core.who(metadata), action, event_id, timestamp, payload)
        return await writing.log(self.core, self._layout.stream(governor_id, state_id), intent, expected, fence)

    async def result_of(
        self,
        governor_id: str,
        state_id: str,
        event_id: str,
        action: str,
        metadata: ChangeMetadata | None = None,
    ) -> JsonState | None:
        """What the change with this event id of the caller's made of the state; None if it is not recorded (so far).

        Raises:
            IdempotencyConflict: the id stands for another change: of another state, or another action, or by
                somebody else, or for another reason.
            NotRetained: the change was recorded, and its event was cleaned up.
        """
        return await writing.result_of(
            self.core, self._layout.stream(governor_id, state_id), event_id, action, self.core.who(metadata)
        )

    async def transact(
        self,
        function: Callable[[Transaction], Awaitable[R]],
        metadata: ChangeMetadata | None = None,
        *,
        fence: Fence | None = None,
    ) -> R:
        """See :meth:`TransactionManager.transact`."""
        return await self.transactions.transact(function, metadata, fence=fence)

    def lock(
        self,
        resource: str,
        *,
        ttl_seconds: float = 30.0,
        wait_seconds: float | None = None,
        holder: str = "",
        holding: Sequence[Lease] = (),
    ) -> AbstractAsyncContextManager[Lease]:
        """See :meth:`LockManager.lock`."""
        return self.locks.lock(
            resource, ttl_seconds=ttl_seconds, wait_seconds=wait_seconds, holder=holder, holding=holding
        )

    # Reading states --------------------------------------------------------------------------------------------

    async def get_state(self, governor_id: str, state_id: str) -> JsonSnapshot:
        """A state as it is now, its version inside. One read, which sees every acknowledged change.

        Raises:
            StateNotFound: it was never written, or is deleted.
            EventSourcingError: it is missing though it has events; ``recover`` mends it.
            CorruptDocument: what is stored is damaged.
        """
        return await reading.get_state(self.core, self._layout.stream(governor_id, state_id))

    async def exists(self, governor_id: str, state_id: str) -> bool:
        """Whether a state is there and not deleted."""
        return await reading.exists(self.core, self._layout.stream(governor_id, state_id))

    async def batch_get_states(self, governor_id: str, ids: Sequence[str]) -> dict[str, JsonSnapshot | None]:
        """Several states of one moment, in one read; None for those that are not there.

        Raises:
            InvalidId: one str, which is no sequence of ids, or an id that cannot be stored.
        """
        return await reading.batch_get_states(self.core, governor_id, ids)

    @overload
    def list_states(
        self, governor_id: str, *, after: str | None = None, deleted: Literal[False] = False
    ) -> Paged[JsonSnapshot]: ...
    @overload
    def list_states(
        self, governor_id: str, *, after: str | None = None, deleted: Literal[True]
    ) -> Paged[JsonState]: ...
    def list_states(self, governor_id: str, *, after: str | None = None, deleted: bool = False) -> Paged[Any]:
        """The states of a governor in the order of their ids.

        Args:
            governor_id: whose.
            after: the first state is the one after this id; None: the first of all.
            deleted: deleted states as well, each as a :class:`~tai_state.DeletedState`.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
        """
        listed = reading.list_all_states if deleted else reading.list_states
        return listed(self.core, governor_id, after=after)

    def list_governors(self, *, after: str | None = None) -> Paged[str]:
        """The ids of all governors, in order, or of those after one."""
        return reading.list_governors(self.core, after=after)

    async def count_states(self, governor_id: str) -> int:
        """How many live states a governor has; reads them all.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
        """
        return await reading.count_states(self.core, governor_id)

    def find_states(self, governor_id: str, where: Mapping[str, Any]) -> Paged[JsonSnapshot]:
        """The live states whose data, brought up to date, has these values, like ``{"status": "failed"}``.

        An engine looks for data as it is stored: with a ``schema`` above 1, all states of older ones are read as well,
        and come first. One of them that is written meanwhile may come twice.

        Args:
            governor_id: whose.
            where: by field (a dotted path into the data): a value, or a list of values any of which will do.

        Raises:
            UnindexedField: the store was not opened with this field ``indexed``.
            GovernorNotFound: nothing was ever written under this governor.
        """
        return reading.find_states(self.core, governor_id, where)

    async def get_stats(self) -> StoreStats:
        """Counts over the whole store; reads every state."""
        return await reading.get_stats(self.core)

    def watch(self, governor_id: str, *state_ids: str) -> AbstractAsyncContextManager[AsyncIterator[JsonState]]:
        """The states as they are now, then each as it changes; without ids, all states of the governor.

        ``async with store.watch("plant") as changes: async for state in changes: …``. Leaving the block ends the watch.

        Changes in quick succession may come as one, but the newest version always comes. A deletion comes as a
        :class:`~tai_state.DeletedState`. For every single event, read the events after the version last seen.

        A step that is cancelled has taken nothing. Where a step raises ``StoreUnavailable`` or ``StoreTimeout``, take
        the next one to try again.

        Raises:
            InvalidId: an id cannot be stored.
        """
        return Following(self.core, governor_id, state_ids, _as_it_is)

    # Reading history -------------------------------------------------------------------------------------------

    def get_events(
        self,
        governor_id: str,
        state_id: str,
        *,
        after: int = 0,
        until: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Paged[JsonEvent]:
        """The events of one state, from version ``after + 1`` to ``until`` (included).

        Where old events were cleaned up, the oldest that is left is the first one, or the last.

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            after: the version before the oldest event.
            until: the version of the newest event; None: of the newest there is.
            limit: how many events at most; None: all of them.
            newest_first: begin with the newest event.

        Raises:
            StateNotFound: the state was never written.
            NotRetained: events were cleaned up while this read.
            EventSourcingError: an event is missing between two others.
            InvalidData: the limit is no number of events.
        """
        stream = self._layout.stream(governor_id, state_id)
        return reading.get_events(self.core, stream, after=after, until=until, limit=limit, newest_first=newest_first)

    def get_all_events(self, governor_id: str) -> Paged[JsonEvent]:
        """All events of a governor: state by state in the order of their ids, each oldest first.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
            NotRetained: events were cleaned up while this read.
            EventSourcingError: an event is missing between two others.
        """
        return reading.get_all_events(self.core, governor_id)

    def get_events_between(self, governor_id: str, start: datetime, end: datetime) -> Paged[JsonEvent]:
        """The events of a governor that happened from one time to another, both included, in order of time.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
        """
        return reading.get_events_between(self.core, governor_id, start, end)

    async def get_state_at(self, governor_id: str, state_id: str, version_or_time: int | datetime) -> JsonState:
        """See :meth:`StateMachinePersister.get_state_at`; events that need a reducer need a persister of one's own."""
        return await self._rooms.history.get_state_at(governor_id, state_id, version_or_time)

    async def recover(self, governor_id: str | None = None, *, concurrency: int = 8) -> RecoveryReport:
        """See :meth:`StateMachinePersister.recover`; events that need a reducer need a persister of one's own."""
        return await self._rooms.history.recover(governor_id, concurrency=concurrency)

    # Kept snapshots --------------------------------------------------------------------------------------------

    async def create_snapshot(self, governor_id: str, state_id: str) -> JsonState:
        """Keep a snapshot of a state as it is now, whatever the policy says. Its version does not move.

        Raises:
            StateNotFound: the state was never written.
            VersionConflict: the state changed 64 times while this tried.
            DocumentTooLarge: the state's data does not fit into a snapshot.
        """
        return await snapshots.create_snapshot(self.core, self._layout.stream(governor_id, state_id))

    async def list_snapshots(self, governor_id: str, state_id: str) -> list[int]:
        """The versions of which a snapshot is kept, oldest first.

        Raises:
            StateNotFound: the state was never written.
        """
        return await snapshots.list_snapshots(self.core, self._layout.stream(governor_id, state_id))

    async def load_snapshot(self, governor_id: str, state_id: str, version: int | None = None) -> JsonState | None:
        """A kept snapshot, by default the newest that is sound; None where there is none.

        One that is damaged, or of a schema that this application does not know, is skipped with a warning.
        """
        return await snapshots.load_snapshot(self.core, self._layout.stream(governor_id, state_id), version)

    @property
    def _rooms(self) -> _Opened:
        if self._opened is None:
            raise RuntimeError("the store is not open: use it inside its `async with` block")
        return self._opened


class _Opened:
    """The rooms of an open store."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.history = StateMachinePersister(core)
        self.locks = LockManager(core)
        self.transactions = TransactionManager(core)


def _as_it_is(state: JsonState) -> JsonState:
    return state
