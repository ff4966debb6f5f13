"""Judging a change: from a look at the documents, what it means and what to do next. Pure.

One look reads the states, the place of the change's first event on each stream, and the markers of callers' ids. If our
event is at our place, the change has succeeded: a commit is atomic, so one place speaks for all of it. If a state has
changed, no copy of the commit can be applied any more, however late it arrives, because each copy requires the state's
old revision. As long as it can be applied, the very same commit is sent again; only then is the change composed anew.
``tests/streams/settling.txt`` has the table, row by row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import msgspec

from tai_state.engines.api import ABSENT, Check, Committed, Document, Put, Scan, Write
from tai_state.engines.matters import (
    LOOKS_MAX,
    Commit,
    Done,
    Failed,
    Look,
    More,
    TooLarge,
    Verdict,
    contention_error,
    overtaken,
    standing,
    still_hold,
)
from tai_state.errors import (
    CommitOutcomeUnknown,
    DocumentTooLarge,
    EventSourcingError,
    StateNotFound,
    TaiStateError,
    VersionConflict,
)
from tai_state.streams.changes import Append, Appended, Change, Composed, Known
from tai_state.streams.planning import Author, Composition, Plan, plan, require_of
from tai_state.streams.policies import Never
from tai_state.streams.reader import StreamReader
from tai_state.streams.records import (
    EMPTY,
    EVENT,
    NOTHING,
    GovernorRecord,
    Head,
    MarkerRecord,
    checked_state,
    head_of,
)
from tai_state.streams.repeating import Results, at_expected, repeated
from tai_state.streams.unseen import Unseen, newest_unseen
from tai_state.streams.walking import Walk
from tai_state.values.events import JsonEvent
from tai_state.values.expected import EXISTS, Expectation, matches
from tai_state.values.times import format_us

_logger = logging.getLogger("tai_state.store")


class Sent(Commit[Results]):
    """The commit of a change, as it is sent.

    Attributes:
        known: what the plans are based on, for each stream.
        plans: the plan for each stream; None if it has no events.
        others: the writes beside those of the plans.
        author: the author of the plans.
    """

    known: Sequence[Known]
    plans: Sequence[Plan | None]
    others: tuple[Write, ...]
    author: Author

    @property
    def compositions(self) -> list[Composition | None]:
        """What was composed for each stream."""
        return [None if each is None else each.composition for each in self.plans]

    def planned(self) -> Iterator[Plan]:
        """The plans that have events."""
        return (each for each in self.plans if each is not None)


class Judge:
    """The matter of one change; it is settled.

    Args:
        change: the requested change.
        author: this store.
        now_us: the writer's time; the same in every try of one call.
        reader: makes the events for a version conflict.
        unregistered: governors whose document is not known to exist.
        recorded: makes the results of an acknowledged commit.
    """

    def __init__(
        self,
        change: Change,
        author: Author,
        now_us: int,
        reader: StreamReader,
        unregistered: Sequence[str],
        recorded: Callable[[Sequence[Plan | None], Sequence[Known], Committed], Results],
    ) -> None:
        self._change = change
        self._author = author
        self._now_us = now_us
        self._reader = reader
        self._unregistered = unregistered
        self._recorded = recorded
        self._markers: list[str] = []
        for append in change.appends:
            for draft in append.drafts:
                if draft.marker is not None:
                    self._markers.append(append.stream.marker(draft.event_id))

    def reads(self, sent: Commit[Results] | None) -> Sequence[str]:
        """See :class:`~tai_state.engines.matters.Matter`, also for the other methods."""
        change = self._change
        paths = [append.stream.state for append in change.appends]
        if isinstance(sent, Sent):
            for each in sent.planned():
                paths += [_place_before(each), *_places(each)]
            paths += [write.path for write in sent.others]
        for append in change.appends:
            if isinstance(append.expected, int) and append.drafts and append.drafts[0].marker is not None:
                paths.append(append.stream.event(append.expected + 1))
        paths += self._markers
        paths += [guard.path for guard in change.guards]
        return list(dict.fromkeys([*paths, *change.documents, *self._unregistered]))

    def judge(self, look: Look, sent: Commit[Results] | None) -> Verdict[Results]:  # noqa: D102
        before = sent if isinstance(sent, Sent) else None
        found = self._own(look, before) or self._earlier(look)
        if found is not None:
            return found
        for guard in self._change.guards:
            document = look.documents[guard.path]
            if not guard.holds(document):
                return Failed(guard.broken(document))
        known: list[Known] = []
        for index, append in enumerate(self._change.appends):
            each = self._stands(append, look, None if before is None else before.plans[index])
            if not isinstance(each, Known):
                return each
            known.append(each)
        if before is None:
            commit = self.planned(known, look.documents, self._author)
        else:
            commit = self._again(before, look) or self.planned(known, look.documents, before.author)
        nothing: Results = [None] * len(known)
        return commit if commit.writes else Done(nothing)

    def is_overtaken(self, sent: Commit[Results], look: Look) -> bool:  # noqa: D102
        if not isinstance(sent, Sent):
            return False
        states = [look.documents[append.stream.state] for append in self._change.appends]
        revisions = [None if state is None else state.revision for state in states]
        return (
            revisions != [known.head.revision for known in sent.known]
            or any(not guard.holds(look.documents[guard.path]) for guard in self._change.guards)
            or any(look.documents.get(path) is not None for path in self._markers)
            or overtaken(sent.writes, look)
        )

    def smaller(self, sent: Commit[Results], error: TooLarge) -> Commit[Results] | None:
        """The same commit without its due snapshots; None if that cannot help."""
        if not isinstance(sent, Sent):
            return None
        due = [each.snapshot for each in sent.planned() if each.snapshot is not None]
        if not due or (isinstance(error, DocumentTooLarge) and error.path not in due):
            return None
        _logger.warning("a due snapshot is not kept, because it is too large", extra=error.fields())
        author = msgspec.structs.replace(sent.author, policy=Never())
        return self._commit(sent.known, sent.compositions, sent.others, author)

    def outrun(self) -> Results:  # noqa: D102
        raise contention_error()

    def unsettled(self) -> TaiStateError:
        """The error for an unknown outcome; it names the ids that the caller gave, for the next call."""
        appends = self._change.appends
        marked = [draft.event_id for append in appends for draft in append.drafts if draft.marker is not None]
        return CommitOutcomeUnknown(tuple(marked), tuple(append.stream.state for append in appends))

    def planned(
        self, known: Sequence[Known], documents: Mapping[str, Document | None], author: Author | None = None
    ) -> Sent:
        """The commit of this change, based on what is known; it has no writes if there is nothing to write."""
        composed = self._change.compose(known, documents)
        is_plain = not self._change.guards and not self._unregistered and None not in composed.compositions
        others = composed.writes if is_plain else self._others(composed, known, documents)
        return self._commit(known, composed.compositions, others, author or self._author)

    def _again(self, sent: Sent, look: Look) -> Sent | None:
        """What was sent, if it can still be applied; without the document of a governor that is there by now.

        It is not composed anew: that might give something else, and a late copy would then pass for another's change.
        """
        there = [path for path in self._unregistered if look.documents[path] is not None]
        others = tuple([write for write in sent.others if write.path not in there])
        again = self._commit(sent.known, sent.compositions, others, sent.author) if there else sent
        return again if still_hold(again.writes, look) else None

    def _others(
        self, composed: Composed, known: Sequence[Known], documents: Mapping[str, Document | None]
    ) -> tuple[Write, ...]:
        """The writes of the commit beside those of the plans."""
        change, compositions = self._change, composed.compositions
        if not composed.writes and not any(compositions):
            return ()
        others = list(composed.writes)
        others += [guard.check for guard in change.guards]
        for append, each, composition in zip(change.appends, known, compositions, strict=True):
            if composition is None:
                others.append(Check(append.stream.state, require_of(each.head)))
        others += [
            Put(path, GovernorRecord(format_us(self._now_us), {}), ABSENT)
            for path in self._unregistered
            if documents.get(path) is None and self._is_created(path, known, compositions)
        ]
        return tuple(others)

    def _is_created(self, governor: str, known: Sequence[Known], compositions: Sequence[Composition | None]) -> bool:
        """Whether this change creates a first version of a state under the governor."""
        return any(
            append.stream.governor == governor and each.head.version == 0 and composition is not None
            for append, each, composition in zip(self._change.appends, known, compositions, strict=True)
        )

    def _commit(
        self,
        known: Sequence[Known],
        compositions: Sequence[Composition | None],
        others: tuple[Write, ...],
        author: Author,
    ) -> Sent:
        plans: list[Plan | None] = []
        writes: list[Write] = []
        for index, append in enumerate(self._change.appends):
            composition = compositions[index]
            if composition is None:
                plans.append(None)
                continue
            planned = plan(append.stream, known[index].head, composition, author, self._now_us)
            plans.append(planned)
            writes += planned.writes
        if self._markers:
            writes += self._put_markers(plans)
        writes += others
        return Sent(writes, partial(self._recorded, plans, known), known, plans, others, author)

    def _put_markers(self, plans: Sequence[Plan | None]) -> Iterator[Put]:
        """The writes of the markers: for each caller's id, the place of its event, and the change's other places."""
        streams = [append.stream for append in self._change.appends]
        others = {
            stream.place: NOTHING if each is None else each.events[0].version
            for stream, each in zip(streams, plans, strict=True)
            if each is None or all(draft.marker is None for draft in each.composition.drafts)
        }
        for stream, each in zip(streams, plans, strict=True):
            if each is not None:
                for draft, event in zip(each.composition.drafts, each.events, strict=True):
                    if draft.marker is not None:
                        record = MarkerRecord(stream.state_id, event.version, draft.marker, others)
                        yield Put(stream.marker(draft.event_id), record, ABSENT)

    def _own(self, look: Look, sent: Sent | None) -> Verdict[Results] | None:
        """The result of this call, if its commit was applied."""
        if sent is None:
            return None
        ours = [_is_ours(each, look) for each in sent.planned()]
        if not ours:
            nothing: Results = [None] * len(sent.plans)
            return None if standing(sent.writes, look) is None else Done(nothing)
        if all(ours):
            return Done([None if each is None else _found(each, look) for each in sent.plans])
        if not any(ours):
            return None
        what = "only a part of a commit is stored: run `tai-state verify`"
        lacking = next(each.stream.state for each, is_ours in zip(sent.planned(), ours, strict=True) if not is_ours)
        return More() if look.looks < LOOKS_MAX else Failed(EventSourcingError(lacking, what))

    def _earlier(self, look: Look) -> Verdict[Results] | None:
        """The result of an earlier call with the same ids."""
        if not self._markers:
            return None
        return repeated(self._change, look) or at_expected(self._change, look)

    def _stands(self, append: Append, look: Look, sent: Plan | None) -> Known | Verdict[Results]:
        """What is known of a stream, if it is as the change expects; otherwise the verdict."""
        path = append.stream.state
        document = look.documents[path]
        known = _known(document)
        if sent is not None and known.head.revision == sent.before.revision and _is_taken(sent, look):
            if look.looks < LOOKS_MAX:
                return More()
            what = "its stream has events that the state lacks: run `tai-state verify`"
            return Failed(EventSourcingError(path, what))
        if append.fits(known.head):
            return known
        if document is None:
            return self._absent(append, look)
        head = known.head
        if append.expected is EXISTS or matches(append.expected, head.version, deleted=head.deleted):
            return Failed(StateNotFound(path))
        return self._conflict(append, head, look)

    def _absent(self, append: Append, look: Look) -> Verdict[Results]:
        """The verdict on a state without a document: it was never written, or only its events are left."""
        start, end = append.stream.range(1)
        scan = Scan(append.stream.events, start=start, end=end, limit=1)
        found = look.scanned.get(scan)
        if found is None:
            return More(scan=scan)
        path = append.stream.state
        if not found:
            return Failed(StateNotFound(path))
        if look.looks < LOOKS_MAX:
            return More()
        return Failed(EventSourcingError(path, "is missing though it has events: run `tai-state verify`"))

    def _conflict(self, append: Append, head: Head, look: Look) -> Verdict[Results]:
        """The verdict of a version conflict, with the events that the writer has not seen."""
        after = append.expected if isinstance(append.expected, int) else 0
        around = [look.documents.get(append.stream.event(version)) for version in (after, after + 1)]
        if head.version == after + 1 and around[1] is not None and (not after or around[0] is not None):
            unseen = Unseen([each for each in around if each is not None], after)
        else:
            found = newest_unseen(append.stream, after, head.version, look.scanned)
            if isinstance(found, Scan):
                return More(scan=found)
            unseen = found
        walk = Walk(self._reader, append.stream, after=unseen.after)
        return Failed(_conflict(append, head.version, tuple(walk.events(unseen.documents))))


def _known(document: Document | None) -> Known:
    if document is None:
        return Known(EMPTY)
    record = checked_state(document)
    return Known(head_of(record, document.revision), record.data)


def _is_ours(sent: Plan, look: Look) -> bool:
    """Whether the first event of a sent plan is stored at its place."""
    document = look.documents.get(sent.stream.event(sent.before.version + 1))
    return document is not None and document.decode(EVENT).digest == sent.events[0].digest


def _is_taken(sent: Plan, look: Look) -> bool:
    """Whether an event is stored at a place of those of a sent plan, or may have been cleaned up there."""
    if any(look.documents.get(place) is not None for place in _places(sent)):
        return True
    return sent.before.version == 0 and look.documents.get(sent.stream.cleaned) is not None


def _places(sent: Plan) -> list[str]:
    """The paths of the events of a sent plan."""
    return [sent.stream.event(event.version) for event in sent.events]


def _place_before(sent: Plan) -> str:
    """The path of the event before those of a sent plan; before event 1, of the note that it was cleaned up."""
    return sent.stream.event(sent.before.version) if sent.before.version else sent.stream.cleaned


def _found(sent: Plan, look: Look) -> Appended:
    document = look.documents[sent.stream.event(sent.before.version + 1)]
    return Appended(sent.events, sent.state, None, 0 if document is None else document.updated_us)


def _conflict(append: Append, actual: int, events: tuple[JsonEvent, ...]) -> VersionConflict:
    expected = append.expected
    name = expected.value if isinstance(expected, Expectation) else expected
    return VersionConflict(append.stream.state, name, actual, events)
