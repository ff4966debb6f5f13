"""One change under faults, and the judgement of what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tai_state import CommitOutcomeUnknown, StateMachinePersister, StateStore, TaiStateError, VersionConflict
from tai_state.errors import StateNotFound, Unavailable
from tai_state.testing.faults import AtCalls, FaultPlan, FaultStatistics, FaultyEngine

from .operations import EVENT_ID, POLICY, REDUCERS, STATE_ID, Change
from .stores import GOVERNOR, Place, Places, collected


@dataclass(frozen=True)
class Attempt:
    """What a caller saw of one call, and what the faulty engine did."""

    result: Any
    error: TaiStateError | None
    cancelled: bool
    calls: int
    statistics: FaultStatistics


async def prepared(places: Places, change: Change) -> Place:
    """A place with what the change starts from."""

    async def prepare(place: Place) -> None:
        async with place.store(snapshots=POLICY) as store:
            await change.prepare(store)

    return await places.prepared(change.name, prepare)


async def attempt(place: Place, change: Change, make_plan: Any, event_id: str | None, **options: Any) -> Attempt:
    """Make a change in a store whose engine fails as planned.

    Args:
        place: where the change was prepared.
        change: what to do.
        make_plan: from the number of calls before the change, the plan.
        event_id: the caller's, or None.
        options: ``delay_calls`` of the engine, the rest settings of the store.
    """
    delay_calls = options.pop("delay_calls", 1)
    faulty = FaultyEngine(place.engine(), AtCalls({}), delay_calls=delay_calls)
    async with place.store(faulty, snapshots=POLICY, **options) as store:
        if change.warm:
            await store.get_state(GOVERNOR, STATE_ID)
        before = faulty.statistics().calls
        faulty.plan = make_plan(before)
        result = error = None
        with faulty.cancellable() as scope:
            try:
                result = await change.run(store, event_id)
            except TaiStateError as raised:
                error = raised
        calls = faulty.statistics().calls - before
        faulty.plan = AtCalls({})
        # Whatever is still under way arrives now: an error reported as final must stay true.
        await faulty.settle()
    return Attempt(result, error, scope.cancelled_caught, calls, faulty.statistics())


async def new_events(store: StateStore, change: Change) -> list[str]:
    """The ids of the events after those that the change started from."""
    try:
        events = await collected(store.get_events(GOVERNOR, STATE_ID, after=change.versions))
    except StateNotFound:
        return []
    return [event.event_id for event in events]


async def judge(place: Place, change: Change, seen: Attempt, event_id: str | None) -> None:
    """What the caller was told is true, and with an id of the caller's own the call can be made again.

    Raises:
        AssertionError: a promise is broken.
    """
    async with place.store(snapshots=POLICY) as store:
        stored = await new_events(store, change)
        assert len(stored) in {0, change.events}, f"the change is there in part or twice: {stored}"
        if seen.error is None and not seen.cancelled:
            assert stored, "an acknowledged change is missing"
        elif isinstance(seen.error, CommitOutcomeUnknown):
            assert not stored or tuple(stored) == tuple(seen.error.event_ids)
            assert seen.error.paths == (store.core.layout.stream(GOVERNOR, STATE_ID).state,)
        elif seen.error is not None:
            assert not stored, f"reported as failed and happened: {seen.error!r}"
            _check_failure(seen.error)
        if event_id is not None:
            await _call_again(store, change, seen, event_id, stored)
        report = await StateMachinePersister(store, REDUCERS).validate_consistency()
        assert report.consistent, report.findings


def _check_failure(error: TaiStateError) -> None:
    """Nobody else writes here, so a conflict can only be that of a change that found no time to look again."""
    if isinstance(error, VersionConflict):
        assert error.expected != error.actual, f"a conflict of a version with itself: {error!r}"
        assert isinstance(error.expected, str), f"told of what was not so: {error!r}"
    else:
        assert isinstance(error, Unavailable), f"told of what was not so: {error!r}"
        assert not error.unknown, "said to be unknown, though it is known"


async def _call_again(store: StateStore, change: Change, seen: Attempt, event_id: str, stored: list[str]) -> None:
    again = await change.run(store, event_id)
    if seen.result is not None:
        assert again == seen.result, "the same call again has another result"
    assert await change.run(store, event_id) == again
    now = await new_events(store, change)
    assert now, "the change is missing"
    assert now[0] == event_id
    assert not stored or now == stored, "the change was made twice"


def at_call(number: int, fault: Any) -> Any:
    """A plan for one fault at the how-many-eth call of the change."""
    return lambda before: AtCalls({("any", before + number): fault})


__all__ = ["EVENT_ID", "Attempt", "FaultPlan", "at_call", "attempt", "judge", "prepared"]
