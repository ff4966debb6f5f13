"""Eventual consistency: rival versions compared, resolved, and written back; the rules stand in the files beside it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tai_state.conflicts.latest import ConflictHistory, ConflictRecord
from tai_state.conflicts.repairing import Conflict, recent_events, repair, standing
from tai_state.conflicts.resolutions import Resolution
from tai_state.conflicts.resolvers import Causal, LastWriteWins, Resolver, check_resolver
from tai_state.conflicts.rivals import Rival, check_rival, check_state, compare_rivals
from tai_state.conflicts.staleness import check_causality, check_freshness
from tai_state.errors import CausalityViolation, InvalidData, StaleRead
from tai_state.streams.core import HasCore, core_of
from tai_state.streams.layout import Stream
from tai_state.values.checks import check_clock, check_flag, check_items, check_whole
from tai_state.values.clocks import ClockOrder, LamportClock, VectorClock, merge
from tai_state.values.json import normalise_object
from tai_state.values.metadata import ChangeMetadata, check_metadata
from tai_state.values.states import DeletedState, JsonState, StateSnapshot
from tai_state.values.times import from_us

_logger = logging.getLogger("tai_state.conflicts")

_LAST_WRITE_WINS = LastWriteWins()

LAMPORT_MAX = 2**63 - 1
"""The greatest Lamport number that is accepted from elsewhere."""


class ConsistencyStats(msgspec.Struct, frozen=True, kw_only=True):
    """What one :class:`EventualConsistency` has seen and done.

    Attributes:
        lamport_clock: the value of its Lamport clock.
        read_repair: whether repairs are written back.
        conflicts: how many concurrent versions were resolved.
        discarded: how many changes were discarded.
        repairs: how many repairs were written to the store.
        stale_reads: how many stale reads ``detect_stale_read`` found.
        violations: how many violations ``check_causality`` found.
    """

    lamport_clock: int
    read_repair: bool
    conflicts: int
    discarded: int
    repairs: int
    stale_reads: int
    violations: int


class EventualConsistency:
    """Brings a store's states up to date with versions from elsewhere: another store, a cache, a file.

    Args:
        store: an open store.
        resolver: decides between concurrent versions; it is not asked if one version knew of the other.
        read_repair: write back what ``read_repair`` finds.
        history: keeps the conflicts; by default a new one.
    """

    def __init__(
        self,
        store: HasCore,
        resolver: Resolver = _LAST_WRITE_WINS,
        *,
        read_repair: bool = True,
        history: ConflictHistory | None = None,
    ) -> None:
        self._core = core = core_of(store)
        check_resolver(resolver)
        if not isinstance(history, ConflictHistory | None):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
            raise InvalidData(f"history must be a ConflictHistory, not {type(history).__name__}")
        self.history: ConflictHistory = ConflictHistory(core.settings.clock) if history is None else history
        self._resolver = Causal(resolver)
        self._lamport = LamportClock()
        self._read_repair = check_flag(read_repair, "read_repair")
        self._counts = Counter[str]()

    # Comparing -----------------------------------------------------------------------------------------------------

    def compare(self, ours: Rival, theirs: Rival) -> ClockOrder:
        """Compare our version with another one; BEFORE means that theirs knew of ours."""
        check_rival(ours, "ours")
        check_rival(theirs, "theirs")
        return compare_rivals(ours, theirs)

    def detect_stale_read(self, read: StateSnapshot[Any] | DeletedState, known: Iterable[VectorClock]) -> None:
        """Check that a state that was read is not older than any version known to exist.

        Raises:
            StaleRead: one of the clocks covers the state that was read, and more.
        """
        check_state(read, "read")
        clocks = check_items(known, lambda: InvalidData("known must be a collection of vector clocks"))
        for clock in clocks:
            check_clock(clock, "each clock in known")
        path = self._stream(read.governor_id, read.state_id).state
        try:
            check_freshness(path, read.causality, clocks)
        except StaleRead:
            self._counts["stale_reads"] += 1
            _logger.warning("stale read", extra={"path": path})
            raise

    def check_causality(self, read: StateSnapshot[Any] | DeletedState, *, after: VectorClock) -> None:
        """Check that a state includes all that its reader has seen: read your writes, monotonic reads.

        Args:
            read: the state that was read.
            after: the clock of what the reader has seen or written; for several clocks, use ``merge_clocks``.

        Raises:
            CausalityViolation: it does not include all of that.
        """
        check_state(read, "read")
        check_clock(after, "after")
        try:
            check_causality(self._stream(read.governor_id, read.state_id).state, read.causality, after)
        except CausalityViolation:
            self._counts["violations"] += 1
            raise

    def merge_clocks(self, *clocks: VectorClock) -> VectorClock:
        """The clock that includes all of these."""
        merged: VectorClock = {}
        for clock in clocks:
            check_clock(clock, "each clock")
            merged = merge(merged, clock)
        return merged

    def next_lamport(self) -> int:
        """The Lamport number for a new event here; greater than all earlier and all observed numbers."""
        return self._lamport.increment()

    def observe_lamport(self, other: int) -> int:
        """Observe a Lamport number from elsewhere; see :meth:`~tai_state.values.clocks.LamportClock.observe`."""
        return self._lamport.observe(check_whole(other, "the Lamport number", most=LAMPORT_MAX))

    def get_stats(self) -> ConsistencyStats:
        """The counts of what was seen and done so far."""
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
        """Resolve two versions into the state that both sides should have; writes nothing to the store.

        Args:
            ours: one version.
            theirs: another version of the same state.
            base: the data of the last version that both knew of; None if unknown.

        Raises:
            InvalidData: they are versions of different states.
            ConflictResolutionFailed: the resolver cannot decide.
        """
        check_rival(ours, "ours")
        check_rival(theirs, "theirs")
        if base is not None:
            _, base = normalise_object(base, "base")
        stream = self._stream(ours.snapshot.governor_id, ours.snapshot.state_id)
        _check_state(stream, [theirs])
        resolution = self._resolver.resolve(ours, theirs, base)
        if compare_rivals(ours, theirs) is ClockOrder.CONCURRENT:
            self._record(stream, Conflict(ours, theirs, resolution), is_repaired=False)
        return resolution

    async def read(self, governor_id: str, state_id: str) -> Rival:
        """The state in this store, deleted or not, for comparison with another store's; it names its last 32 events.

        Raises:
            StateNotFound: it was never written.
        """
        stream = self._stream(governor_id, state_id)
        found = await standing(self._core, stream)
        if found is None:
            raise await self._core.reader.absence_error(stream)
        return msgspec.structs.replace(found, recent=await recent_events(self._core, stream, found.snapshot.version))

    async def read_repair(
        self,
        governor_id: str,
        state_id: str,
        seen: Sequence[Rival],
        metadata: ChangeMetadata | None = None,
        *,
        dry_run: bool = False,
    ) -> JsonState:
        """Bring a state up to date with versions that were seen elsewhere.

        A version that knew of ours replaces it. A concurrent version is resolved with ours, against the last version
        that both knew of if our stream still has it. The result is written back as an ordinary change with the action
        ``read_repair`` or ``resolve``. Its metadata's context has under ``conflict`` what was brought in and discarded
        (at most 100 changes; of large values only the size). Bringing in the same version again changes nothing.

        If our state is deleted and stays deleted, no event is written to hold that record: what was discarded is then
        only in ``history`` and in the log.

        If a store was restored from a backup, clocks can say that a version knew of ours although it did not. That is
        seen among the last 32 events of versions that ``read`` returned; they are then resolved as concurrent.

        If the stores are synced later, ``sync`` finds this record and does not merge the same versions again.

        Args:
            governor_id: the owner and namespace.
            state_id: the state under it.
            seen: versions from elsewhere, such as those that another store's ``read`` returned.
            metadata: who repairs and why; by default the store's own.
            dry_run: write and record nothing.

        Returns:
            The state as it is now. If a needed repair is not written (``dry_run``, or read repair is off), the version
            that was read, with the repaired data.

        Raises:
            StateNotFound: the state was never written, and ``seen`` is empty.
            ConflictResolutionFailed: the resolver cannot decide.
            VersionConflict: others were faster 16 times. Otherwise as ``StateStore.update_state``.
        """
        stream = self._stream(governor_id, state_id)
        seen = check_items(seen, lambda: InvalidData("seen must be a collection of versions"))
        for version in seen:
            check_rival(version, "each version in seen")
        _check_state(stream, seen)
        check_flag(dry_run, "dry_run")
        if metadata is not None:
            check_metadata(metadata)
        is_written_back = self._read_repair and not dry_run
        who = self._core.who(metadata) if is_written_back else None
        repaired = await repair(self._core, stream, seen, self._resolver, who)
        if not dry_run:
            self._counts["repairs"] += repaired.is_written
            for conflict in repaired.conflicts:
                self._record(stream, conflict, is_repaired=repaired.is_written)
        return repaired.state

    def _record(self, stream: Stream, conflict: Conflict, *, is_repaired: bool) -> None:
        discarded = len(conflict.resolution.discarded)
        self._counts["conflicts"] += 1
        self._counts["discarded"] += discarded
        record = ConflictRecord(
            path=stream.state,
            clocks=(conflict.ours.clock, conflict.theirs.clock),
            strategy=conflict.resolution.strategy,
            resolved_at=from_us(self._core.settings.clock.now_us()),
            discarded=discarded,
            repaired=is_repaired,
        )
        self.history.record(record)
        facts = {"path": record.path, "strategy": record.strategy, "discarded": discarded, "repaired": is_repaired}
        _logger.warning("conflict resolved", extra=facts)

    def _stream(self, governor_id: str, state_id: str) -> Stream:
        return self._core.layout.stream(governor_id, state_id)


def _check_state(stream: Stream, versions: Sequence[Rival]) -> None:
    """Check that all versions belong to one state.

    Raises:
        InvalidData: one of them belongs to another state.
    """
    for version in versions:
        if (version.snapshot.governor_id, version.snapshot.state_id) != (stream.governor_id, stream.state_id):
            raise InvalidData(f"a version is of another state than {stream.state!r}")
