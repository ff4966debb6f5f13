"""The store: through it, a service reads and changes the states of its machines."""

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
from tai_state.history.reporting import RecoveryReport
from tai_state.locks.lease import Lease
from tai_state.locks.locking import LockManager
from tai_state.machines.checks import check_definition
from tai_state.machines.contexts import C
from tai_state.machines.definition import Definition
from tai_state.machines.persistent import PersistentMachine
from tai_state.machines.states import S
from tai_state.store.handle import StateHandle
from tai_state.streams import reading, sizes, snapshots, writing
from tai_state.streams.changes import Fence
from tai_state.streams.codec import codec_of
from tai_state.streams.core import Core, open_core
from tai_state.streams.following import Following
from tai_state.streams.layout import Layout
from tai_state.streams.reading import StoreStats
from tai_state.streams.settings import Settings
from tai_state.streams.sizes import StoreSize
from tai_state.streams.writing import Intent
from tai_state.transactions.manager import TransactionManager
from tai_state.transactions.transaction import Transaction
from tai_state.values.checks import check_flag
from tai_state.values.counting import counted
from tai_state.values.events import JsonEvent
from tai_state.values.expected import EXISTS, NO_STATE, Expected
from tai_state.values.metadata import ChangeMetadata, check_default
from tai_state.values.states import DeletedState, JsonSnapshot, JsonState

D = TypeVar("D")
R = TypeVar("R")


class StateStore:
    """Keeps the states of machines, and the events that explain them, on one engine.

    Made by :func:`~tai_state.open_store`. Use it with ``async with``, from the tasks of one event loop.
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
        return f"<{type(self).__name__} {where}, open, {counted(len(self.core.appender.heads), 'head')}>"

    async def __aenter__(self) -> Self:
        if self._opening is not None:
            raise RuntimeError("the store is already open: use it inside its `async with` block, or open another one")
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
        """The open core, for the library's own use; not part of the public interface.

        Raises:
            RuntimeError: the store is not open.
        """
        return self._rooms.core

    @property
    def transactions(self) -> TransactionManager:
        """The manager of this store's transactions; it remembers the outcomes of the most recent ones."""
        return self._rooms.transactions

    @property
    def locks(self) -> LockManager:
        """The manager of this store's locks; it remembers which leases it has seen without renewal."""
        return self._rooms.locks

    @property
    def store_id(self) -> str:
        """The id of this store, which names its component in vector clocks."""
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
        """A handle on one state, with its data as a model or as plain JSON.

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            model: a pydantic model, a dataclass, a TypedDict, or a union of these; or a pydantic ``TypeAdapter`` of
                one. None: plain JSON.
            metadata: who makes the changes through this handle and why, unless a change or its transaction names it; by
                default, what the store was opened with.

        Raises:
            InvalidId: the ids cannot be stored.
            InvalidData: the metadata cannot be stored, or pydantic cannot use the model.
        """
        stream = self._layout.stream(governor_id, state_id)
        return StateHandle(self, stream, codec_of(model), check_default(metadata))

    def machine(
        self,
        governor_id: str,
        state_id: str,
        definition: Definition[S, C],
        *,
        metadata: ChangeMetadata | None = None,
    ) -> PersistentMachine[S, C]:
        """A handle on one machine: a state that changes by the rules of a definition.

        Args:
            governor_id: the owner and namespace.
            state_id: the machine under it.
            definition: what its states are, and which steps it may take.
            metadata: as for :meth:`state`.

        Raises:
            InvalidId: the ids cannot be stored.
            InvalidData: the metadata cannot be stored, or the definition is none.
        """
        check_definition(definition)
        return PersistentMachine(self, self._layout.stream(governor_id, state_id), definition, check_default(metadata))

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
        """Write a state; by default, create it.

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            data: the whole new state, a JSON object.
            metadata: who made the change and why; by default, what the store was opened with.
            expected: what the writer believes the version to be.
            action: what happened; the name of the event.
            payload: any JSON value; kept with the event, and not part of the state.
            event_id: the caller's own id, so that repeating the call changes nothing and returns the first result.
            timestamp: when it happened; now, if not given.
            fence: a lease; the change is made only while its lock is held.

        Returns:
            The state as written, with its new version.

        Raises:
            LockLost: the lease given as fence has ended; nothing was written.
            VersionConflict, StateNotFound: the state is not what was expected; nothing was written.
            IdempotencyConflict: the event id is already used by a different change.
            CommitOutcomeUnknown: no answer came in time; call again with the same ``event_id``.
            InvalidId, InvalidData, DocumentTooLarge: the input cannot be stored; nothing was sent.
            StoreUnavailable, StoreTimeout: nothing was written.
        """
        core = self.core
        intent = Intent(core.who(metadata), action, event_id, timestamp, payload)
        return await writing.save(core, self._layout.stream(governor_id, state_id), data, intent, expected, fence)

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
        """Write a new version of a state. Like :meth:`save_state`, but ``expected`` must be given."""
        core = self.core
        intent = Intent(core.who(metadata), action, event_id, timestamp, payload)
        return await writing.save(core, self._layout.stream(governor_id, state_id), data, intent, expected, fence)

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
        """Delete a state. The deletion is one more event; the history stays.

        Writing the state again goes on at the next version.

        Returns:
            The deleted state, without data, at the version of the deletion.

        Raises:
            StateNotFound: there is nothing to delete. Otherwise as :meth:`save_state`.
        """
        core = self.core
        intent = Intent(core.who(metadata), action, event_id, timestamp)
        return await writing.delete(core, self._layout.stream(governor_id, state_id), intent, expected, fence)

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
        """Record an event that does not change the data of a state. It still makes a new version.

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
            StateNotFound: the state does not exist. Otherwise as :meth:`save_state`.
        """
        core = self.core
        intent = Intent(core.who(metadata), action, event_id, timestamp, payload)
        return await writing.log(core, self._layout.stream(governor_id, state_id), intent, expected, fence)

    async def result_of(
        self,
        governor_id: str,
        state_id: str,
        event_id: str,
        action: str,
        metadata: ChangeMetadata | None = None,
    ) -> JsonState | None:
        """The state after the change with this event id; None if the change is not recorded, or not recorded yet.

        Raises:
            IdempotencyConflict: the id is used by a different change: of another state, with another action, by
                another user, or for another reason.
            NotRetained: the change was recorded, but its event has been cleaned up.
            ReducerMissing: the change was recorded, and only a reducer makes the state after it.
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
        """A state as it is now, with its version. Takes one read, which sees every acknowledged change.

        Raises:
            StateNotFound: the state was never written, or is deleted.
            EventSourcingError: the state is missing although it has events; ``recover`` repairs it.
            CorruptDocument: the stored document is damaged.
        """
        return await reading.get_state(self.core, self._layout.stream(governor_id, state_id))

    async def exists(self, governor_id: str, state_id: str) -> bool:
        """Whether a state exists and is not deleted.

        Only the state's document is read: if that is lost, this says False, while :meth:`get_state` and a first write
        raise ``EventSourcingError``.
        """
        return await reading.exists(self.core, self._layout.stream(governor_id, state_id))

    async def batch_get_states(self, governor_id: str, ids: Sequence[str]) -> dict[str, JsonSnapshot | None]:
        """Several states as of one moment, in one read; None for each that does not exist, or whose document is lost.

        Raises:
            InvalidId: an id cannot be stored, or ``ids`` is not a collection of ids, such as a single str.
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
        """The states of a governor, in the order of their ids.

        Args:
            governor_id: the governor.
            after: start with the first state after this id; None: with the first of all.
            deleted: include deleted states, each as a :class:`~tai_state.DeletedState`.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
        """
        listed = reading.list_all_states if check_flag(deleted, "deleted") else reading.list_states
        return listed(self.core, governor_id, after=after)

    def list_governors(self, *, after: str | None = None) -> Paged[str]:
        """The ids of all governors in order, or of those after the id ``after``.

        Raises:
            CorruptDocument: a governor's own document is damaged; ``recover`` makes it anew.
        """
        return reading.list_governors(self.core, after=after)

    async def count_states(self, governor_id: str) -> int:
        """How many states a governor has, not counting deleted ones. Reads all of them.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
        """
        return await reading.count_states(self.core, governor_id)

    def find_states(self, governor_id: str, where: Mapping[str, Any]) -> Paged[JsonSnapshot]:
        """The states whose data has these values, like ``{"status": "failed"}``. Deleted states are left out.

        Data is compared after upcasting, but an engine can only search data as it is stored. So with a ``schema`` above
        1, all states of older schemas are read, too, and come first. If one of them is written meanwhile, it may come
        twice.

        Args:
            governor_id: the governor.
            where: for each field (a dotted path into the data), the value, or a list of values of which one must match.

        Raises:
            UnindexedField: the store was not opened with this field in ``indexed``.
            InvalidData: a value is not text, a number, a boolean or None.
            GovernorNotFound: nothing was ever written under this governor.
        """
        return reading.find_states(self.core, governor_id, where)

    async def get_stats(self) -> StoreStats:
        """Counts over the whole store. Reads every state."""
        return await reading.get_stats(self.core)

    async def get_size(self) -> StoreSize:
        """How much room the store takes. Reads every document of every governor: states, events, snapshots, markers."""
        return await sizes.get_size(self.core)

    def watch(self, governor_id: str, *state_ids: str) -> AbstractAsyncContextManager[AsyncIterator[JsonState]]:
        """Watch states: yields them as they are now, then each again after it has changed.

        Without ids, all states of the governor are watched.

        ``async with store.watch("plant") as changes: async for state in changes: …``. Leaving the block ends the watch.

        - Changes in quick succession may come as one, but the newest version always comes. To get every event, read the
          events after the version last seen.
        - A deletion comes as a :class:`~tai_state.DeletedState`.
        - Cancelling a step loses nothing. If a step raises ``StoreUnavailable`` or ``StoreTimeout``, leave the block
          and watch again: later steps may go on raising the same error.

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

        If old events were cleaned up, the oldest one left comes first (last, with ``newest_first``).

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            after: leave out the events up to this version.
            until: the version of the newest event to return; None: the newest of all.
            limit: return at most this many events; None: all of them.
            newest_first: start with the newest event.

        Raises:
            StateNotFound: the state was never written.
            NotRetained: events were cleaned up while they were being read.
            EventSourcingError: an event is missing between two others.
            InvalidData: a version or the limit is not a whole number from 0 up.
        """
        stream = self._layout.stream(governor_id, state_id)
        return reading.get_events(self.core, stream, after=after, until=until, limit=limit, newest_first=newest_first)

    def get_all_events(self, governor_id: str) -> Paged[JsonEvent]:
        """All events of a governor: state by state in the order of the state ids, each oldest first.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
            NotRetained: events were cleaned up while they were being read.
            EventSourcingError: an event is missing between two others.
        """
        return reading.get_all_events(self.core, governor_id)

    def get_events_between(self, governor_id: str, start: datetime, end: datetime) -> Paged[JsonEvent]:
        """The events of a governor with timestamps from ``start`` to ``end``, both included, in order of time.

        Raises:
            GovernorNotFound: nothing was ever written under this governor.
        """
        return reading.get_events_between(self.core, governor_id, start, end)

    async def get_state_at(self, governor_id: str, state_id: str, version_or_time: int | datetime) -> JsonState:
        """See :meth:`StateMachinePersister.get_state_at`. If events need reducers, use a persister that has them."""
        return await self._rooms.history.get_state_at(governor_id, state_id, version_or_time)

    async def recover(self, governor_id: str | None = None, *, concurrency: int = 8) -> RecoveryReport:
        """See :meth:`StateMachinePersister.recover`. If events need reducers, use a persister that has them."""
        return await self._rooms.history.recover(governor_id, concurrency=concurrency)

    # Kept snapshots --------------------------------------------------------------------------------------------

    async def create_snapshot(self, governor_id: str, state_id: str) -> JsonState:
        """Keep a snapshot of a state as it is now, whatever the policy says. The state's version does not change.

        Raises:
            StateNotFound: the state was never written.
            StoreTimeout: other writers changed the state at every attempt.
            DocumentTooLarge: the state's data does not fit into a snapshot.
        """
        return await snapshots.create_snapshot(self.core, self._layout.stream(governor_id, state_id))

    async def list_snapshots(self, governor_id: str, state_id: str) -> list[int]:
        """The versions of the kept snapshots of a state, oldest first.

        Raises:
            StateNotFound: the state was never written.
        """
        return await snapshots.list_snapshots(self.core, self._layout.stream(governor_id, state_id))

    async def load_snapshot(self, governor_id: str, state_id: str, version: int | None = None) -> JsonState | None:
        """A kept snapshot of a state, by default the newest sound one; None if there is none.

        A snapshot that is damaged, or of a schema that this application does not know, is skipped with a warning.

        Raises:
            InvalidData: the version is not a whole number from 1 up.
            StateNotFound: the state was never written.
        """
        return await snapshots.load_snapshot(self.core, self._layout.stream(governor_id, state_id), version)

    @property
    def _rooms(self) -> _Opened:
        if self._opened is None:
            raise RuntimeError("the store is not open: use it inside its `async with` block")
        return self._opened


class _Opened:
    """The parts of an open store."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.history = StateMachinePersister(core)
        self.locks = LockManager(core)
        self.transactions = TransactionManager(core, locks=self.locks)


def _as_it_is(state: JsonState) -> JsonState:
    return state
