"""Syncing two stores: afterwards every state is the same in both, whatever changes either of them had."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, NamedTuple, TypeAlias

import anyio
import msgspec

from tai_state.conflicts.copying import EVENTS_MAX, take_over
from tai_state.conflicts.drift import drift
from tai_state.conflicts.joining import Joiner
from tai_state.conflicts.losses import lost_unseen
from tai_state.conflicts.resolvers import LastWriteWins, Resolver, check_resolver
from tai_state.conflicts.retirements import keep, refused, with_retired
from tai_state.conflicts.sides import Side
from tai_state.engines.api import Document, Scan, after
from tai_state.engines.paging import Paged
from tai_state.errors import (
    ConflictResolutionFailed,
    CorruptDocument,
    IdempotencyConflict,
    Inconsistent,
    InvalidData,
    Rejected,
    TaiStateError,
    VersionConflict,
)
from tai_state.history.essentials import all_governors
from tai_state.history.folding import Reducers
from tai_state.history.persister import StateMachinePersister
from tai_state.history.unfinished import unfinished_restores
from tai_state.streams.changes import always, append_of
from tai_state.streams.core import Core, HasCore, core_of
from tai_state.streams.planning import Composition, Draft
from tai_state.values.checks import check_flag, check_long_work
from tai_state.values.clocks import ClockOrder, compare
from tai_state.values.ids import escape_id, stored_id
from tai_state.values.metadata import ChangeMetadata, check_metadata
from tai_state.values.retired import has_marks

_logger = logging.getLogger("tai_state.conflicts")

LISTED_MAX: Final = 1_000
"""How many conflicts, and how many failures, a report lists at most."""

_REFUSALS_MAX: Final = 16
_BY_SYNC: Final = ChangeMetadata("sync", "two stores were changed apart from one another")
_LAST_WRITE_WINS: Final = LastWriteWins()


class SyncConflict(msgspec.Struct, frozen=True, kw_only=True):
    """A conflict that a sync met.

    Attributes:
        governor_id: the owner and namespace.
        state_id: the state under it.
        event_id: the id of the event that joins both sides.
        strategy: the name of the resolver.
        discarded: how many changes were discarded; the event's payload lists them.
    """

    governor_id: str
    state_id: str
    event_id: str
    strategy: str
    discarded: int


class SyncReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a sync found and did.

    Attributes:
        checked: how many states were compared.
        same: how many of them were the same in both stores.
        sent: how many events the second store took over from the first.
        received: how many events the first store took over from the second.
        joined: how many states had been changed in both stores, and were joined.
        conflicts: the joins, the first 1,000; a state that others change meanwhile may be joined more than once.
        failed: the first 1,000 states that could not be synced: path and reason.
        resume: pass this to continue after an interruption; None when all is done.
    """

    checked: int = 0
    same: int = 0
    sent: int = 0
    received: int = 0
    joined: int = 0
    conflicts: tuple[SyncConflict, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    resume: tuple[str, str] | None = None

    @property
    def complete(self) -> bool:
        """Whether the stores are now the same, apart from changes made during the sync."""
        return not self.failed


SyncProgress: TypeAlias = Callable[[SyncReport], Awaitable[None]]


class _Done(NamedTuple):
    """The outcome of syncing one state."""

    sent: int = 0
    received: int = 0
    met: tuple[SyncConflict, ...] = ()
    failure: str = ""
    refusals: int = 0


async def sync(
    first: HasCore,
    second: HasCore,
    *,
    governor_id: str | None = None,
    resolver: Resolver = _LAST_WRITE_WINS,
    reducers: Reducers | None = None,
    metadata: ChangeMetadata = _BY_SYNC,
    dry_run: bool = False,
    concurrency: int = 8,
    progress: SyncProgress | None = None,
    resume: tuple[str, str] | None = None,
) -> SyncReport:
    """Bring two stores to the same states, on any two engines.

    For each state, vector clocks and the ids of the last events show what either side knows of the other. If one side
    is merely behind, it takes over the other side's events. If both were changed, one event joins them, the same on
    both sides: it carries the resolver's result, names the versions that it joins, and records what was discarded.
    Nothing is discarded without that record.

    A state whose hybrid clock is more than a day ahead of the clock of the store that would take it over is not synced.

    A sync that was interrupted at any point is completed by running it again. If the stores are already the same, it
    writes nothing.

    Args:
        first: an open store.
        second: another open store.
        governor_id: sync only this governor's states; None: all.
        resolver: decides between changes made on both sides.
        reducers: the application's reducers; needed only if the state after a payload-carrying event must be computed.
        metadata: who and why, for events that join two sides.
        dry_run: count, and write nothing. If a state would take several commits, only the first one is counted.
        concurrency: how many states are synced at once.
        progress: called with the report so far, after each batch of ``concurrency`` states.
        resume: ``resume`` from the report of an interrupted sync.

    Raises:
        InvalidData: an argument is not valid; both arguments are the same store; or the stores are opened with
            different schemas.
        StoreUnavailable, StoreTimeout, CommitOutcomeUnknown: run it again, from ``resume`` or from the start.
        Whatever the resolver or a reducer raises, once all other states are synced.
    """
    one, other = core_of(first), core_of(second)
    check_resolver(resolver)
    check_metadata(metadata)
    check_flag(dry_run, "dry_run")
    check_long_work(concurrency, progress, resume)
    if governor_id is not None:
        escape_id(governor_id, "governor_id")
    schemas = {core.settings.upcasting.schema for core in (one, other)}
    if one is other:
        raise InvalidData("a store cannot be synced with itself")
    if len(schemas) > 1:
        raise InvalidData("the two stores are opened with different schemas")
    pair = _Pair(one, other, resolver, {} if reducers is None else reducers, metadata, dry_run=dry_run)
    report = SyncReport(resume=resume)
    some: list[tuple[str, str]] = []
    async with aclosing(_places(one, other, governor_id, resume)) as places:
        async for place in places:
            if isinstance(place, Inconsistent):
                failed = (*report.failed, (place.path, place.what))[:LISTED_MAX]
                report = msgspec.structs.replace(report, failed=failed)
                continue
            some.append(place)
            if len(some) >= concurrency:
                report, some = _added(report, some, await pair.sync_all(some)), []
                if progress is not None:
                    await progress(report)
    if some:
        report = _added(report, some, await pair.sync_all(some))
    if pair.error is not None:
        raise pair.error
    return msgspec.structs.replace(report, resume=None)


class _Pair:
    """Two stores that are being synced.

    Attributes:
        error: the first error that was not one of this library: the application's own, of a resolver for example.
    """

    def __init__(
        self,
        first: Core,
        second: Core,
        resolver: Resolver,
        reducers: Reducers,
        metadata: ChangeMetadata,
        *,
        dry_run: bool,
    ) -> None:
        self._first = first
        self._second = second
        self._persisters = {core: StateMachinePersister(core, reducers) for core in (first, second)}
        self._joiner = Joiner(resolver, self._persisters, metadata)
        self._dry_run = dry_run
        self.error: Exception | None = None

    async def sync_all(self, places: Sequence[tuple[str, str]]) -> list[_Done]:
        """Sync several states at once."""
        done: list[_Done] = [_Done()] * len(places)
        errors: dict[int, Exception] = {}

        async def one(index: int, governor_id: str, state_id: str) -> None:
            try:
                done[index] = await self._sync(governor_id, state_id)
            except (Inconsistent, Rejected, ConflictResolutionFailed, IdempotencyConflict) as error:
                done[index] = _Done(failure=str(error))
            except Exception as error:  # noqa: BLE001 - raised below or at the end, and in no group
                errors[index] = error

        async with anyio.create_task_group() as tasks:
            for index, (governor_id, state_id) in enumerate(places):
                tasks.start_soon(one, index, governor_id, state_id)
        for index, error in sorted(errors.items()):
            if isinstance(error, TaiStateError):
                raise error
            error.add_note(f"while syncing {' '.join(places[index])}")
            self.error = self.error or error
            done[index] = _Done(failure=repr(error))
        return done

    async def _sync(self, governor_id: str, state_id: str) -> _Done:
        """Sync one state; start again if another writer changes it meanwhile."""
        done = _Done()
        refusals = 0
        while refusals < _REFUSALS_MAX:
            here = await Side.read(self._first, self._first.layout.stream(governor_id, state_id))
            there = await Side.read(self._second, self._second.layout.stream(governor_id, state_id))
            is_equal = here.is_equal(there)
            if is_equal and not has_marks(here.clock):
                return done
            here, there = await with_retired(here, there)
            if failure := refused(here, there) or ("" if is_equal else drift(here, there)):
                return done._replace(failure=failure)
            if not self._dry_run:
                await keep(here)
                await keep(there)
            if is_equal:
                return done
            try:
                step = await self._step(here, there)
            except VersionConflict:
                refusals += 1
                continue
            done = _Done(done.sent + step.sent, done.received + step.received, done.met + step.met)
            refusals += step.refusals
            if self._dry_run:
                return done
        return done._replace(failure=f"other writers changed it {_REFUSALS_MAX} times during the sync")

    async def _step(self, here: Side, there: Side) -> _Done:
        """Make one commit on one side, or one on each."""
        order = compare(here.clock, there.clock)
        if order is ClockOrder.AFTER and (count := await self._take_over(here, there)) is not None:
            return _Done(sent=count)
        if order is ClockOrder.BEFORE and (count := await self._take_over(there, here)) is not None:
            return _Done(received=count)
        return await self._join(here, there)

    async def _take_over(self, newer: Side, older: Side) -> int | None:
        """Append the newer side's next events to the older side; None if they do not continue its stream."""
        unseen = await self._joiner.continuing(newer, older, await newer.unseen(older, EVENTS_MAX))
        if unseen is None:
            return None
        if self._dry_run:
            return len(unseen.events)
        return await take_over(newer, older, unseen, self._persisters[newer.core])

    async def _join(self, here: Side, there: Side) -> _Done:
        """Write the event that joins both sides to each of them."""
        draft, data, resolution = await self._joiner.join(here, there)
        refusals = 0
        if not self._dry_run:
            # The sync that is the first to write it has joined them: every sync begins with the same side.
            one, other = sorted((here, there), key=lambda side: side.core.store_id)
            draft = msgspec.structs.replace(draft, call=one.core.settings.new_id())
            await self._append(one, draft, data)
            try:
                await self._append(other, draft, data)
            except VersionConflict:  # that side has changed, or has got the event already: the next step sees it
                refusals = 1
            facts = {"path": here.stream.state, "discarded": len(resolution.discarded)}
            _logger.warning("both stores had changed a state; its two streams were joined", extra=facts)
        conflict = SyncConflict(
            governor_id=here.stream.governor_id,
            state_id=here.stream.state_id,
            event_id=draft.event_id,
            strategy=resolution.strategy,
            discarded=len(resolution.discarded),
        )
        return _Done(met=(conflict,), refusals=refusals)

    @staticmethod
    async def _append(side: Side, draft: Draft, data: dict[str, Any] | None) -> None:
        append = append_of(side.stream, side.version, (draft,))
        await side.core.appender.append_one(append, always(Composition((draft,), data)))


def _added(report: SyncReport, places: Sequence[tuple[str, str]], done: Sequence[_Done]) -> SyncReport:
    failures = [(" ".join(place), each.failure) for place, each in zip(places, done, strict=True) if each.failure]
    met = [each for one in done for each in one.met]
    return SyncReport(
        checked=report.checked + len(places),
        same=report.same + sum(each == _Done() for each in done),
        sent=report.sent + sum(each.sent for each in done),
        received=report.received + sum(each.received for each in done),
        joined=report.joined + sum(bool(each.met) for each in done),
        conflicts=(*report.conflicts, *met)[:LISTED_MAX],
        failed=(*report.failed, *failures)[:LISTED_MAX],
        resume=places[-1],
    )


async def _places(
    first: Core, second: Core, governor_id: str | None, resume: tuple[str, str] | None
) -> AsyncGenerator[tuple[str, str] | Inconsistent, None]:
    """The governor and id of each state in either store; the error of a document whose path names none."""
    strange: list[Inconsistent] = []
    governors = await _governors(first, second, governor_id, resume, strange)
    for core in (first, second):
        strange += await unfinished_restores(core, governor_id)
    for error in strange:
        yield error
    for found in governors:
        async for state in _states(first, second, found, resume):
            state_id = _id_of(first.layout.states(found), state)
            yield state_id if isinstance(state_id, CorruptDocument) else (found, state_id)
        for error in await lost_unseen(first, second, found):
            yield error


def _id_of(collection: str, segment: str) -> str | CorruptDocument:
    try:
        return stored_id(f"{collection}/{segment}")
    except CorruptDocument as error:
        return error


async def _governors(
    first: Core,
    second: Core,
    governor_id: str | None,
    resume: tuple[str, str] | None,
    strange: list[Inconsistent],
) -> list[str]:
    """The ids of the governors of both stores, in order; ``strange`` receives documents whose id is not one."""
    if governor_id is not None:
        return [governor_id]
    found = {each for core in (first, second) for each in await all_governors(core, strange)}
    start = "" if resume is None else escape_id(resume[0])
    return sorted((each for each in found if escape_id(each) >= start), key=escape_id)


def _states(first: Core, second: Core, governor_id: str, resume: tuple[str, str] | None) -> Paged[str]:
    """The escaped ids of a governor's states in both stores, after the one to resume after."""
    start = after(escape_id(resume[1])) if resume is not None and resume[0] == governor_id else ""
    return _merged(*(core.engine.scan(Scan(core.layout.states(governor_id), start=start)) for core in (first, second)))


def _merged(one: Paged[Document], other: Paged[Document]) -> Paged[str]:
    """The ids of the documents of two scans, each once; both scans are in order."""
    scans = (one, other)
    nexts: list[str | None] = []

    async def advance(scan: Paged[Document]) -> str | None:
        document = await anext(scan, None)
        return None if document is None else document.id

    async def fetch() -> list[str] | None:
        while len(nexts) < len(scans):  # an earlier call that failed may have left the first one here
            nexts.append(await advance(scans[len(nexts)]))
        there = [each for each in nexts if each is not None]
        if not there:
            return None
        lesser = min(there)
        for index, scan in enumerate(scans):
            if nexts[index] == lesser:
                nexts[index] = await advance(scan)
        return [lesser]

    return Paged(fetch)
