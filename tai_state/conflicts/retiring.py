"""Retiring a store: the clocks of a store's states no longer name another one, which will not write again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Final

import msgspec

from tai_state.conflicts.retirements import retired_for
from tai_state.engines.api import ABSENT, At, Document, Put, Scan
from tai_state.errors import Inconsistent, InvalidData, Rejected
from tai_state.history.essentials import all_governors
from tai_state.history.survey import lost_states
from tai_state.history.unfinished import unfinished_restores
from tai_state.streams.changes import Change, Composed, Known, append_of
from tai_state.streams.core import Core, HasCore, core_of
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition, Given
from tai_state.streams.reader import lost_state_error
from tai_state.streams.reading import list_all_states
from tai_state.streams.retirements import RETIRE_ACTION, RETIRED, RetiredRecord, Retirement, check_clock, retired_in
from tai_state.streams.writing import Intent, draft
from tai_state.values.checks import check_flag
from tai_state.values.clocks import VectorClock, next_hybrid, tick
from tai_state.values.expected import ANY
from tai_state.values.ids import escape_id
from tai_state.values.json import encode
from tai_state.values.metadata import ChangeMetadata, check_metadata, check_text
from tai_state.values.retired import Retired, is_mark, mark_of

LISTED_MAX: Final = 1_000
"""How many failures a report lists at most."""

_BY_OPERATOR: Final = ChangeMetadata("retire_store", "a store will not write again")


class RetirementReport(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`retire_store` found and did.

    Attributes:
        checked: how many states were looked at.
        retired: how many of them had a clock that named the store, and no longer do.
        failed: the first 1,000 states that could not be changed, and restores that are unfinished: path and reason.
    """

    checked: int = 0
    retired: int = 0
    failed: tuple[tuple[str, str], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether no clock of a state names the store any longer, nor will one once a restore is finished."""
        return not self.failed


async def retire_store(
    store: HasCore,
    store_id: str,
    *,
    governor_id: str | None = None,
    metadata: ChangeMetadata = _BY_OPERATOR,
    dry_run: bool = False,
) -> RetirementReport:
    """Take another store, which will not write again, out of the clocks of all states.

    For each state whose clock names that store, one event is written. It does not change the data. Its clock, and the
    clock of each later event, is shorter. How much was known of the retired store stays on record, and goes to other
    stores with the events. So nothing is lost if yet another store has seen more of it: a later ``sync`` finds that,
    and joins it. Then the clock names the retired store again, until it is retired again.

    The retired store itself cannot be synced any more where its changes are known.

    It is enough to call this for one of the stores that are synced with each other. If it was interrupted, call it
    again. If no clock names the store, it writes nothing.

    Args:
        store: an open store.
        store_id: the ``store_id`` of the store that will not write again.
        governor_id: only this governor's states; None: all.
        metadata: who retires it and why.
        dry_run: count, and write nothing.

    Raises:
        InvalidData: an argument is not valid, or the store would retire itself.
        GovernorNotFound: nothing was ever written under this governor.
        StoreUnavailable, StoreTimeout, CommitOutcomeUnknown: call it again.
    """
    core = core_of(store)
    check_text(store_id, "store_id")
    check_metadata(metadata)
    check_flag(dry_run, "dry_run")
    if governor_id is not None:
        escape_id(governor_id, "governor_id")
    if store_id == core.store_id:
        raise InvalidData("a store cannot retire itself: retire it in a store that it was synced with")
    if not store_id or is_mark(store_id):
        raise InvalidData(f"{store_id!r} is not the id of a store: the clocks of states name those that changed them")
    checked = retired = 0
    strange = await unfinished_restores(core, governor_id)
    failed: list[tuple[str, str]] = []
    for governor in await all_governors(core, strange) if governor_id is None else [governor_id]:
        async for state in list_all_states(core, governor, report=strange.append):
            checked += 1
            if store_id not in state.causality:
                continue
            stream = core.layout.stream(state.governor_id, state.state_id)
            try:
                await _check_events(core, stream, store_id, state.causality)
                retired += dry_run or await _retired(core, stream, store_id, metadata)
            except (Inconsistent, Rejected) as error:
                failed.append((stream.state, str(error)))
        async with aclosing(lost_states(core, governor)) as lost:
            strange += [lost_state_error(stream) async for stream in lost]
    failed += [(error.path, error.what) for error in strange]
    return RetirementReport(checked=checked, retired=retired, failed=tuple(failed[:LISTED_MAX]))


async def is_retired(core: Core, store_id: str, governor_id: str | None) -> bool:
    """Whether it is on record, for any state of one governor or of all, that a store was retired."""
    for governor in await all_governors(core, []) if governor_id is None else [governor_id]:
        async for document in core.engine.scan(Scan(core.layout.retired(governor))):
            if store_id in Retired(document.decode(RETIRED).taken_out).stores:
                return True
    return False


async def _check_events(core: Core, stream: Stream, store_id: str, clock: VectorClock) -> None:
    """Check, if a store was retired before, that it has not written after that: a new mark would hide it.

    Raises:
        EventSourcingError: it has.
    """
    retired = await retired_for(core, stream, clock)
    if store_id in retired.stores:
        async for stored in core.reader.records(stream, 1):
            check_clock(stream, retired, stored.record.causality)


async def _retired(core: Core, stream: Stream, store_id: str, metadata: ChangeMetadata) -> bool:
    """Write the event that takes a store out of a state's clock; False if the clock no longer names it."""
    made = draft(core, stream, Intent(metadata, RETIRE_ACTION))
    mark, now_us = mark_of(made.event_id), core.settings.clock.now_us()

    def compose(known: Sequence[Known], documents: Mapping[str, Document | None]) -> Composed:
        [(head, data)], document = [(each.head, each.data) for each in known], documents[stream.retired]
        if store_id not in head.causality:
            return Composed((None,))
        counted = tick(head.causality, core.store_id)
        there = retired_in(stream, document)
        check_clock(stream, there, head.causality)
        retired, clock = there.with_retirement(mark, counted, store_id)
        given = Given(
            causality=clock,
            hlc=next_hybrid(head.hlc, now_us),
            schema=head.schema,
            state_hash=head.state_hash,
            origin=core.store_id,
        )
        event = msgspec.structs.replace(made, payload=encode(Retirement(retired.taken_out[mark])), given=given)
        record = RetiredRecord(stream.state_id, retired.taken_out)
        put = Put(stream.retired, record, ABSENT if document is None else At(document.revision))
        return Composed((Composition((event,), data),), (put,))

    append = append_of(stream, ANY, (made,), needs_state=True)
    [done] = await core.appender.append(Change((append,), compose, documents=(stream.retired,)))
    return done is not None
