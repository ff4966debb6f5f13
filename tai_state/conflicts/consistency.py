"""Eventual consistency: rival versions compared, resolved, and written back."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from tai_state.conflicts.history import ConflictHistory, ConflictRecord
from tai_state.conflicts.repairs import ACTION_NEWER, ACTION_RIVAL, ancestry, noted
from tai_state.conflicts.resolutions import Resolution, same, state_of
from tai_state.conflicts.resolvers import Causal, LastWriteWins, Resolver
from tai_state.conflicts.rivals import Rival, compare_rivals
from tai_state.conflicts.sides import Side
from tai_state.errors import CausalityViolation, InvalidData, StaleRead, StateNotFound, VersionConflict
from tai_state.streams import writing
from tai_state.streams.core import HasCore
from tai_state.streams.layout import Stream
from tai_state.streams.writing import Intent
from tai_state.values.clocks import ClockOrder, LamportClock, VectorClock, compare, merge
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import DeletedState, JsonState, StateSnapshot, with_data
from tai_state.values.times import from_us

_logger = logging.getLogger("tai_state.conflicts")

REPAIRS_MAX = 16
"""How often ``read_repair`` begins anew when others are faster."""

_LAST_WRITE_WINS = LastWriteWins()


class ConsistencyStats(msgspec.Struct, frozen=True, kw_only=True):
    """What one :class:`EventualConsistency` has seen and done.

    Attributes:
        lamport_clock: its value.
        read_repair: whether repairs are written back.
        conflicts: concurrent versions resolved.
        discarded: changes that were dropped.
        repairs: repairs written to the store.
        stale_reads: found by ``detect_stale_read``.
        violations: found by ``check_causality``.
    """

    lamport_clock: int
    read_repair: bool
    conflicts: int
    discarded: int
    repairs: int
    stale_reads: int
    violations: int


class _Conflict(NamedTuple):
    """Two concurrent versions and what became of them."""

    ours: Rival
    theirs: Rival
    resolution: Resolution


class _Repair(NamedTuple):
    """A repair to be.

    Attributes:
        before: what stands.
        after: what is to stand; its clocks are those of all that is in it.
        brought_in: the versions that are not in what stands.
        resolutions: with them, in turn.
        conflicts: those of them that were concurrent.
    """

    before: Rival
    after: Rival
    brought_in: list[Rival]
    resolutions: list[Resolution]
    conflicts: list[_Conflict]

    @property
    def proposal(self) -> JsonState:
        """The version that stands with the data that it should have."""
        return with_data(self.before.snapshot, self.after.data)

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to write: other data, or a record of what was discarded."""
        is_new = not same(state_of(self.before.data), state_of(self.after.data))
        return is_new or (self.before.data is not None and any(each.discarded for each in self.resolutions))


class EventualConsistency:
    """Brings a store's states up to date with versions that are known from elsewhere: another store, a cache, a file.

    Args:
        store: an open one.
        resolver: decides between concurrent versions; never asked where one version knew of the other.
        read_repair: write back what ``read_repair`` finds.
        history: keeps the conflicts; its own, if not given.
    """

    def __init__(
        self,
        store: HasCore,
        resolver: Resolver = _LAST_WRITE_WINS,
        *,
        read_repair: bool = True,
        history: ConflictHistory | None = None,
    ) -> None:
        self._core = core = store.core
        self.history: ConflictHistory = ConflictHistory(core.settings.clock) if history is None else history
        self._resolver = Causal(resolver)
        self._lamport = LamportClock()
        self._read_repair = read_repair
        self._counts = Counter[str]()

    # Comparing -----------------------------------------------------------------------------------------------------

    def compare(self, ours: Rival, theirs: Rival) -> ClockOrder:
        """How our version stands to the other one: BEFORE means that theirs knew of ours."""
        return compare_rivals(ours, theirs)

    def detect_stale_read(self, read: StateSnapshot[Any] | DeletedState, known: Iterable[VectorClock]) -> None:
        """Make sure that what was read is not older than any version known to exist.

        Raises:
            StaleRead: one of the clocks knew of what was read, and of more.
        """
        for clock in known:
            if compare(read.causality, clock) is ClockOrder.BEFORE:
                self._counts["stale_reads"] += 1
                path = self._stream(read.governor_id, read.state_id).state
                _logger.warning("stale read", extra={"path": path})
                raise StaleRead(path, (read.causality, clock))

    def check_causality(self, read: StateSnapshot[Any] | DeletedState, *, after: VectorClock) -> None:
        """Make sure that what was read includes what its reader has seen: reading your writes, monotonic reads.

        Args:
            read: the state.
            after: the clock of what the reader has seen or written; of several, ``merge_clocks`` gives it.

        Raises:
            CausalityViolation: it does not.
        """
        if compare(after, read.causality) in {ClockOrder.AFTER, ClockOrder.CONCURRENT}:
            self._counts["violations"] += 1
            raise CausalityViolation(self._stream(read.governor_id, read.state_id).state, (read.causality, after))

    def merge_clocks(self, *clocks: VectorClock) -> VectorClock:
        """The clock of what knows of all these."""
        merged: VectorClock = {}
        for clock in clocks:
            merged = merge(merged, clock)
        return merged

    def next_lamport(self) -> int:
        """The number of something new that happens here; greater than all before it and all observed."""
        return self._lamport.increment()

    def observe_lamport(self, other: int) -> int:
        """Take note of a number from elsewhere; see :meth:`~tai_state.values.clocks.LamportClock.observe`."""
        return self._lamport.observe(other)

    def get_stats(self) -> ConsistencyStats:
        """What was seen and done so far."""
        counts = self._counts
        return ConsistencyStats(
            lamport_clock=self._lamport.value,
            read_repair=self._read_repair,
            conflicts=counts["conflicts"],
            discarded=counts["discarded"],
            repairs=counts["repairs"],
            stale_reads=counts["stale_reads"],
            violations=counts["violations"],
        )

    # Resolving -----------------------------------------------------------------------------------------------------

    def resolve_conflict(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None = None) -> Resolution:
        """The state that both sides are to have; writes nothing to the store.

        Args:
            ours: one version.
            theirs: another one of the same state.
            base: the data of the last version that both knew of, if it is known.

        Raises:
            InvalidData: they are versions of different states.
            ConflictResolutionFailed: the resolver cannot decide.
        """
        stream = self._stream(ours.snapshot.governor_id, ours.snapshot.state_id)
        _check_state(stream, [theirs])
        resolution = self._resolver.resolve(ours, theirs, base)
        if compare_rivals(ours, theirs) is ClockOrder.CONCURRENT:
            self._record(stream, _Conflict(ours, theirs, resolution), repaired=False)
        return resolution

    async def read(self, governor_id: str, state_id: str) -> Rival:
        """The state as this store has it, deleted or not, to be compared with another store's.

        Raises:
            StateNotFound: it was never written.
        """
        stream = self._stream(governor_id, state_id)
        found = await self._version(stream)
        if found is None:
            raise await self._core.reader.absence(stream)
        return found

    async def read_repair(
        self,
        governor_id: str,
        state_id: str,
        seen: Sequence[Rival],
        metadata: ChangeMetadata | None = None,
        *,
        dry_run: bool = False,
    ) -> JsonState:
        """The state, brought up to date with the versions that were seen elsewhere.

        A version that knew of ours is taken over; one that is concurrent is resolved with ours, against the last
        version that both knew of where our stream still has it. The result is written back as an ordinary change,
        its action ``read_repair`` or ``resolve``, with what was brought in and discarded under ``conflict`` in the
        metadata's context (at most 100 changes, large values by name only). A version that an earlier call brought in
        changes nothing again. Where ours is deleted and stays so, there is no event to hold a record: what was
        discarded is in ``history`` and in the log only.

        Where the stores are synced later, ``sync`` sees by that note what was brought in, and does not merge it again.

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            seen: versions known from elsewhere, like those that another store's ``read`` gave.
            metadata: who repairs and why; the store's own, if not given.
            dry_run: write and record nothing.

        Returns:
            The state as it now stands. Where nothing is written though it should (``dry_run``, or read repair is
            off), the version that was read with the data that it should have.

        Raises:
            StateNotFound: the state was never written, and nothing was seen.
            ConflictResolutionFailed: the resolver cannot decide.
            VersionConflict: others were faster 16 times. Otherwise as ``StateStore.update_state``.
        """
        stream = self._stream(governor_id, state_id)
        _check_state(stream, seen)
        who = self._core.who(metadata)
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(VersionConflict),
            stop=stop_after_attempt(REPAIRS_MAX),
            wait=wait_random_exponential(multiplier=0.005, max=1.0),
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                repair = await self._repair(stream, seen)
                if dry_run:
                    return repair.proposal
                written = None
                if self._read_repair and repair.is_needed:
                    written = await self._write(stream, repair, who)
                for conflict in repair.conflicts:
                    self._record(stream, conflict, repaired=written is not None)
                return written or repair.proposal
        raise AssertionError("the last attempt returns or raises")

    async def _repair(self, stream: Stream, seen: Sequence[Rival]) -> _Repair:
        """What is to be done. Writes nothing."""
        before = await self._version(stream) or await self._nothing(stream, seen)
        repair = _Repair(before, before, [], [], [])
        # Newest first: what those before it knew of is in them already.
        for theirs in sorted(seen, key=lambda each: each.rank, reverse=True):
            repair = await self._bring_in(stream, repair, theirs)
        return repair

    async def _bring_in(self, stream: Stream, repair: _Repair, theirs: Rival) -> _Repair:
        """The repair, with one more version brought in where it is not in already."""
        ours, base = repair.after, None
        if compare_rivals(ours, theirs) is ClockOrder.CONCURRENT:
            clock, base = await ancestry(self._core, stream, repair.before.snapshot.version, ours.clock, theirs.clock)
            ours = _with(ours, ours.data, clock, ours.hlc)
        order = compare_rivals(ours, theirs)
        if order is ClockOrder.AFTER or (order is ClockOrder.SAME and same(state_of(ours.data), state_of(theirs.data))):
            return repair
        resolution = self._resolver.resolve(ours, theirs, base)
        after = _with(ours, resolution.data, merge(ours.clock, theirs.clock), max(ours.hlc, theirs.hlc))
        conflicts = [] if order is ClockOrder.BEFORE else [_Conflict(ours, theirs, resolution)]
        return _Repair(
            repair.before,
            after,
            [*repair.brought_in, theirs],
            [*repair.resolutions, resolution],
            repair.conflicts + conflicts,
        )

    async def _write(self, stream: Stream, repair: _Repair, metadata: ChangeMetadata) -> JsonState:
        """Write a repair back."""
        data = repair.after.data
        note = noted(metadata, repair.brought_in, repair.resolutions)
        intent = Intent(note, ACTION_RIVAL if repair.conflicts else ACTION_NEWER)
        version = repair.before.snapshot.version
        written: JsonState
        if data is None:
            written = await writing.delete(self._core, stream, intent, version, None)
        else:
            written = await writing.save(self._core, stream, data, intent, version, None)
        self._counts["repairs"] += 1
        return written

    def _record(self, stream: Stream, conflict: _Conflict, *, repaired: bool) -> None:
        discarded = len(conflict.resolution.discarded)
        self._counts["conflicts"] += 1
        self._counts["discarded"] += discarded
        record = ConflictRecord(
            path=stream.state,
            clocks=(conflict.ours.clock, conflict.theirs.clock),
            strategy=conflict.resolution.strategy,
            resolved_at=from_us(self._core.settings.clock.now_us()),
            discarded=discarded,
            repaired=repaired,
        )
        self.history.record(record)
        facts = {"path": record.path, "strategy": record.strategy, "discarded": discarded, "repaired": repaired}
        _logger.warning("conflict resolved", extra=facts)

    async def _version(self, stream: Stream) -> Rival | None:
        """The state as it stands, deleted or not; None where there is none."""
        side = await Side.read(self._core, stream.governor_id, stream.state_id)
        if side.record is None:
            return None
        snapshot = self._core.state(stream, side.record, side.recorded_us)
        return Rival(snapshot=snapshot, hlc=side.record.hlc, tip=side.tip)

    async def _nothing(self, stream: Stream, seen: Sequence[Rival]) -> Rival:
        """What stands where no state was ever written, if there is something to take over.

        Raises:
            StateNotFound: nothing was seen either.
            EventSourcingError: the state has events, and only its document is missing.
        """
        absence = await self._core.reader.absence(stream)
        if not seen or not isinstance(absence, StateNotFound):
            raise absence
        unsaved = StateSnapshot[dict[str, Any]].unsaved(stream.governor_id, stream.state_id, {})
        return Rival(snapshot=with_data(unsaved, None), hlc=0, tip="")

    def _stream(self, governor_id: str, state_id: str) -> Stream:
        return self._core.layout.stream(governor_id, state_id)


def _check_state(stream: Stream, versions: Sequence[Rival]) -> None:
    """Make sure that they are of one state.

    Raises:
        InvalidData: one of them is not.
    """
    for version in versions:
        if (version.snapshot.governor_id, version.snapshot.state_id) != (stream.governor_id, stream.state_id):
            raise InvalidData(f"a version is of another state than {stream.state!r}")


def _with(version: Rival, data: dict[str, Any] | None, clock: VectorClock, hlc: int) -> Rival:
    snapshot = msgspec.structs.replace(with_data(version.snapshot, data), causality=clock)
    return msgspec.structs.replace(version, snapshot=snapshot, hlc=hlc)
