"""Bugs made on purpose: each is let into the write path, one at a time, and a check that is green without it goes red.

A check that could not fail would show nothing. Each mutant is a mistake that systems like this one have made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec
import pytest

from tai_state import (
    ANY,
    EveryEvents,
    IdempotencyConflict,
    NewEvent,
    StateMachinePersister,
    TaiStateError,
    VersionConflict,
)
from tai_state.engines.api import Committed, Put, Write
from tai_state.engines.matters import Done, Failed, More
from tai_state.engines.sqlite.writer import Writer
from tai_state.streams import judging, planning
from tai_state.streams.appending import Appender
from tai_state.streams.changes import Appended, Composed
from tai_state.streams.judging import Judge
from tai_state.streams.planning import Plan
from tai_state.streams.records import EVENT, checked_state, state_after
from tai_state.testing.faults import Fault

from ..support.judging import at_call, attempt, judge, prepared
from ..support.mutations import changes_are_committed_by, lost_answer_is_a_failure
from ..support.operations import CHANGES, EVENT_ID, REDUCERS
from ..support.stores import GOVERNOR, MEMORY, METADATA, SQLITE, Places

pytestmark = pytest.mark.anyio

Check = Callable[[Places], Awaitable[None]]
Mutation = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: the checks' own tests run wherever that matters."""
    return "asyncio"


@pytest.fixture
def places() -> Iterator[Places]:
    """Empty places in memory."""
    with Places(MEMORY) as places:
        yield places


# Checks --------------------------------------------------------------------------------------------------------


async def check_two_writers(places: Places) -> None:
    """Of two writers that read the same version one is refused, and nothing of the other is lost."""
    place = places.new()
    async with place.store() as one, place.store() as other:
        await one.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        before = await other.get_state(GOVERNOR, "alice")
        await one.update_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=before)
        with pytest.raises(VersionConflict):
            await other.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=before)
        assert (await other.get_state(GOVERNOR, "alice")).data == {"n": 1}


async def check_writer_meets_snapshot(places: Places) -> None:
    """A writer that does not know of a snapshot kept meanwhile does not lose it."""
    place = places.new()
    async with place.store() as one, place.store() as other:
        await one.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        await other.create_snapshot(GOVERNOR, "alice")
        await one.update_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=1)
        assert await other.list_snapshots(GOVERNOR, "alice") == [1]
        assert (await StateMachinePersister(other).validate_consistency()).consistent


async def check_faults(places: Places) -> None:
    """Whatever call of any change goes wrong, callers are told the truth, and may call again."""
    for change in CHANGES:
        for event_id in (EVENT_ID, None):
            for fault in Fault:
                for number in range(1, 7):
                    place = await prepared(places, change)
                    seen = await attempt(place, change, at_call(number, fault), event_id)
                    await judge(place, change, seen, event_id)


async def check_same_id_again(places: Places) -> None:
    """A call made again with the same id, by another process, changes nothing and has the first result."""
    place = places.new()
    async with place.store() as store:
        first = await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=ANY, event_id="once")
    async with place.store() as store:
        assert await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=ANY, event_id="once") == first
        assert (await store.get_state(GOVERNOR, "alice")).version == 1


async def check_ids_overlap(places: Places) -> None:
    """A batch of which one id is used already is refused as a whole."""
    place = places.new()
    async with place.store() as store:
        persister = StateMachinePersister(store, REDUCERS)
        first = [NewEvent("add", 1, "one"), NewEvent("add", 2, "two")]
        await persister.record(GOVERNOR, "alice", first, METADATA, expected=ANY)
        with pytest.raises(IdempotencyConflict):
            await persister.record(
                GOVERNOR, "alice", [NewEvent("add", 2, "two"), NewEvent("add", 3, "three")], METADATA, expected=ANY
            )
        assert (await store.get_state(GOVERNOR, "alice")).data == {"n": 3}


async def check_snapshots_and_replay(places: Places) -> None:
    """Every version, folded from the nearest snapshot, is what was acknowledged."""
    place = places.new()
    async with place.store(snapshots=EveryEvents(2)) as store:
        persister = StateMachinePersister(store, REDUCERS)
        for _ in range(7):
            await persister.record(GOVERNOR, "alice", [NewEvent("add", 1)], METADATA, expected=ANY)
        for version in range(1, 8):
            assert (await persister.get_state_at(GOVERNOR, "alice", version)).data == {"n": version}
        report = await persister.validate_consistency()
        assert report.consistent, report.findings


async def check_acknowledged_is_committed(places: Places) -> None:
    """What was acknowledged is there for everybody who looks at the file."""
    with Places(SQLITE) as files:
        place = files.new()
        async with place.store() as writer:
            await writer.save_state(GOVERNOR, "alice", {"n": 1}, METADATA)
            async with place.store(create=False) as reader:
                assert (await reader.get_state(GOVERNOR, "alice")).data == {"n": 1}


async def check_told_of_a_version(places: Places) -> None:
    """A writer who heard of a version elsewhere may write on it, however old what its store remembers."""
    place = places.new()
    async with place.store() as one, place.store() as other:
        await one.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
        await other.update_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=1)
        written = await one.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=2)
        assert written.version == 3


# Mutations -----------------------------------------------------------------------------------------------------


def _planned(patch: pytest.MonkeyPatch, change: Callable[[Plan], Sequence[Write]]) -> None:
    """Let every commit be of other writes than the ones planned."""
    plan = planning.plan

    def mutant(*args: Any, **options: Any) -> Plan:
        planned = plan(*args, **options)
        return msgspec.structs.replace(planned, writes=tuple(change(planned)))

    patch.setattr(judging, "plan", mutant)


def no_version_check(patch: pytest.MonkeyPatch) -> None:
    """Lost update: state and events are put over whatever is there."""
    _planned(patch, lambda planned: [Put(each.path, each.fields) for each in planned.writes if isinstance(each, Put)])


def no_check_of_the_state(patch: pytest.MonkeyPatch) -> None:
    """Only the event's place is checked, and the state put over whatever is there."""
    _planned(
        patch,
        lambda planned: [
            Put(each.path, each.fields) if isinstance(each, Put) and each.path == planned.stream.state else each
            for each in planned.writes
        ],
    )


def new_ids_for_each_try(patch: pytest.MonkeyPatch) -> None:
    """A lost answer is followed by a new commit, with new event ids."""
    original = Judge.planned
    numbers = count()

    def planned(self: Judge, *args: Any) -> Any:
        change = self._change
        if self.__dict__.setdefault("is_tried", False):
            self._change = msgspec.structs.replace(change, compose=lambda *known: renamed(change.compose(*known)))
        self.__dict__["is_tried"] = True
        try:
            return original(self, *args)
        finally:
            self._change = change

    def renamed(composed: Composed) -> Composed:
        compositions = [
            msgspec.structs.replace(
                each,
                drafts=tuple(
                    msgspec.structs.replace(draft, event_id=f"try-{next(numbers)}", marker=None)
                    for draft in each.drafts
                ),
            )
            for each in composed.compositions
        ]
        return msgspec.structs.replace(composed, compositions=tuple(compositions))

    patch.setattr(Judge, "planned", planned)
    patch.setattr(Judge, "_again", lambda *_: None)


def own_commit_taken_for_a_conflict(patch: pytest.MonkeyPatch) -> None:
    """After a lost answer nobody looks whether the event at our place is our own."""
    patch.setattr(Judge, "_own", lambda *_: None)


def unknown_taken_for_failed(patch: pytest.MonkeyPatch) -> None:
    """A lost answer is reported as a failure."""
    lost_answer_is_a_failure(patch)


def state_and_event_in_two_commits(patch: pytest.MonkeyPatch) -> None:
    """First the events, then the state."""

    async def commit(engine: Any, writes: Sequence[Write]) -> Committed:
        events = [write for write in writes if "/events/" in write.path]
        rest = [write for write in writes if "/events/" not in write.path]
        [*first, last] = filter(None, (events, rest))
        for part in first:
            await engine.commit(part)
        committed: Committed = await engine.commit(last)
        return committed

    changes_are_committed_by(patch, commit)


def no_marker(patch: pytest.MonkeyPatch) -> None:
    """The marker of a caller's event id is left out of the commit."""
    patch.setattr(Judge, "_put_markers", lambda *_: iter(()))


def any_marker_will_do(patch: pytest.MonkeyPatch) -> None:
    """A batch counts as done as soon as one of its ids is known."""
    original = judging.repeated

    def repeated(change: Any, look: Any) -> Any:
        verdict = original(change, look)
        if not isinstance(verdict, Failed):
            return verdict
        [append] = change.appends
        path = append.stream.event(checked_state(look.documents[append.stream.state]).version)
        if path not in look.documents:
            return More((path,))
        last = look.documents[path].decode(EVENT)
        return Done([Appended((last,), state_after(last, path), None, 0, is_repeated=True)])

    patch.setattr(judging, "repeated", repeated)


def snapshot_one_version_early(patch: pytest.MonkeyPatch) -> None:
    """A snapshot bears the version before the event whose state it holds, so that the event is applied twice."""
    put_snapshot, state_of = planning.put_snapshot, planning._state

    def early(stream: Any, state: Any) -> Put:
        return put_snapshot(stream, msgspec.structs.replace(state, version=state.version - 1))

    def kept_early(*args: Any) -> Any:
        record, is_due = state_of(*args)
        kept = (*record.kept[:-1], record.version - 1) if is_due else record.kept
        return msgspec.structs.replace(record, kept=kept), is_due

    patch.setattr(planning, "put_snapshot", early)
    patch.setattr(planning, "_state", kept_early)


class _Lazy:
    """A connection that commits when it is used the next time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._owes = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *args: Any) -> Any:
        if sql == "COMMIT":
            self._owes = True
            return None
        if self._owes:
            self._owes = False
            self._connection.execute("COMMIT")
        return self._connection.execute(sql, *args)


def acknowledged_before_commit(patch: pytest.MonkeyPatch) -> None:
    """SQLite's writer answers before COMMIT."""
    original = Writer._open

    def lazy(self: Writer) -> Any:
        if self._connection is None:
            self._connection = _Lazy(original(self))  # type: ignore[assignment]
        return self._connection

    patch.setattr(Writer, "_open", lazy)


def head_decides_a_conflict(patch: pytest.MonkeyPatch) -> None:
    """What the store remembers of a state is taken for what it is."""
    original = Appender._remembered

    def remembered(self: Appender, change: Any) -> Any:
        for append in change.appends:
            head = self.heads.get(append.stream.state)
            if head is not None and isinstance(append.expected, int) and append.expected != head.version:
                raise VersionConflict(append.stream.state, append.expected, head.version)
        return original(self, change)

    patch.setattr(Appender, "_remembered", remembered)


@dataclass(frozen=True)
class Caught:
    """A mutation, and the check that catches it."""

    mutation: Mutation
    check: Check


MUTANTS = (
    Caught(no_version_check, check_two_writers),
    Caught(no_check_of_the_state, check_writer_meets_snapshot),
    Caught(new_ids_for_each_try, check_faults),
    Caught(own_commit_taken_for_a_conflict, check_faults),
    Caught(unknown_taken_for_failed, check_faults),
    Caught(state_and_event_in_two_commits, check_faults),
    Caught(no_marker, check_same_id_again),
    Caught(any_marker_will_do, check_ids_overlap),
    Caught(snapshot_one_version_early, check_snapshots_and_replay),
    Caught(acknowledged_before_commit, check_acknowledged_is_committed),
    Caught(head_decides_a_conflict, check_told_of_a_version),
)


def _name(value: Any) -> str:
    return value.__name__.removeprefix("check_")


@pytest.mark.parametrize("check", dict.fromkeys(each.check for each in MUTANTS), ids=_name)
async def test_check_is_green_without_a_mutant(places: Places, check: Check):
    """Each check passes on the library as it is."""
    await check(places)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: _name(each.mutation))
async def test_mutant_is_caught(places: Places, monkeypatch: pytest.MonkeyPatch, mutant: Caught):
    """The check fails as soon as the bug is there."""
    mutant.mutation(monkeypatch)
    with pytest.raises((AssertionError, TaiStateError, pytest.fail.Exception)) as failure:
        await mutant.check(places)
    print(f"{_name(mutant.mutation)}: {failure.value!r}")
