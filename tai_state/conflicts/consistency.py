"""Eventual consistency: rival versions compared, resolved, and written back; the rules stand in the files beside it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tai_state.conflicts.latest import ConflictHistory, ConflictRecord
from tai_state.conflicts.repairing import Conflict, repair, standing
from tai_state.conflicts.resolutions import Resolution
from tai_state.conflicts.resolvers import Causal, LastWriteWins, Resolver
from tai_state.conflicts.rivals import Rival, compare_rivals
from tai_state.conflicts.staleness import check_causality, check_freshness
from tai_state.errors import CausalityViolation, InvalidData, StaleRead
from tai_state.streams.core import HasCore
from tai_state.streams.layout import Stream
from tai_state.values.clocks import ClockOrder, LamportClock, VectorClock, merge
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import DeletedState, JsonState, StateSnapshot
from tai_state.values.times import from_us

_logger = logging.getLogger("tai_state.conflicts")

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
        path = self._stream(read.governor_id, read.state_id).state
        try:
            check_freshness(path, read.causality, known)
        except StaleRead:
            self._counts["stale_reads"] += 1
            _logger.warning("stale read", extra={"path": path})
            raise

    def check_causality(self, read: StateSnapshot[Any] | DeletedState, *, after: VectorClock) -> None:
        """Make sure that what was read includes what its reader has seen: reading your writes, monotonic reads.

        Args:
            read: the state.
            after: the clock of what the reader has seen or written; of several, ``merge_clocks`` gives it.

        Raises:
            CausalityViolation: it does not.
        """
        try:
            check_causality(self._stream(read.governor_id, read.state_id).state, read.causality, after)
        except CausalityViolation:
            self._counts["violations"] += 1
            raise

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
            self._record(stream, Conflict(ours, theirs, resolution), is_repaired=False)
        return resolution

    async def read(self, governor_id: str, state_id: str) -> Rival:
        """The state as this store has it, deleted or not, to be compared with another store's.

        Raises:
            StateNotFound: it was never written.
        """
        stream = self._stream(governor_id, state_id)
        found = await standing(self._core, stream)
        if found is None:
            raise await self._core.reader.absence(stream)
        return found

    async def read_repair(
        self,
        governor_id: str,
        state_id: str,
        seen: Sequence[Rival],
        metadata: ChangeMetadata,
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
            metadata: who repairs and why.
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
        is_written_back = self._read_repair and not dry_run
        repaired = await repair(self._core, stream, seen, self._resolver, metadata if is_written_back else None)
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
    """Make sure that they are of one state.

    Raises:
        InvalidData: one of them is not.
    """
    for version in versions:
        if (version.snapshot.governor_id, version.snapshot.state_id) != (stream.governor_id, stream.state_id):
            raise InvalidData(f"a version is of another state than {stream.state!r}")
