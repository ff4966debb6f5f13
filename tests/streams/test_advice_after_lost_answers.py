"""What a writer is told when no answer comes, and whether it helps to do as it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tai_state import (
    ANY,
    EXISTS,
    CommitOutcomeUnknown,
    NewEvent,
    StateMachinePersister,
    StateStore,
    StoreTimeout,
)
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock, MemoryEngine

from ..support.operations import REDUCERS
from ..support.overtaking import Overtaken
from ..support.stores import GOVERNOR, METADATA, Opened, collected, make_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tai_state.engines.api import Write
    from tai_state.testing import Call

pytestmark = pytest.mark.anyio

STATE_ID = "alice"


@pytest.fixture
def anyio_backend() -> str:
    """What is told does not depend on the event loop."""
    return "asyncio"


@dataclass
class Silence:
    """Applies the next commit, and answers nothing from then on."""

    planned: int = 0

    def fault(self, call: Call) -> Fault | None:
        """The fault of a call."""
        if not self.planned and call.verb != "commit":
            return None
        self.planned += 1
        return Fault.LOST_AFTER if self.planned == 1 else Fault.UNAVAILABLE


async def unanswered(store: StateStore, faulty: FaultyEngine, expected: Any, event_id: str | None) -> Sequence[str]:
    """Make a change that is stored and never answered; the ids that its writer is told."""
    await store.save_state(GOVERNOR, STATE_ID, {"n": 1}, METADATA)
    faulty.plan = Silence()
    with pytest.raises(CommitOutcomeUnknown) as told:
        await store.update_state(GOVERNOR, STATE_ID, {"n": 2}, METADATA, expected=expected, event_id=event_id)
    faulty.plan = AtCalls({})
    assert ("event id" in str(told.value)) == bool(told.value.event_ids)
    return told.value.event_ids


def impatient() -> tuple[FaultyEngine, StateStore]:
    """A store that looks once after a lost answer, not yet open, and its engine."""
    clock = ManualClock(step_us=1)
    faulty = FaultyEngine(MemoryEngine(clock), AtCalls({}))
    return faulty, make_store(faulty, clock, timeout_seconds=0.0)


@pytest.mark.parametrize(
    ("expected", "event_id"),
    [
        (ANY, None),
        (1, None),
        (ANY, "the caller's"),
        (1, "the caller's"),
    ],
)
async def test_every_id_that_is_named_can_be_asked_with(expected: Any, event_id: str | None):
    """The same call with an id that the error names returns the stored change, and records nothing more."""
    faulty, store = impatient()
    async with store:
        for named in await unanswered(store, faulty, expected, event_id):
            again = await store.update_state(GOVERNOR, STATE_ID, {"n": 2}, METADATA, expected=expected, event_id=named)
            assert (again.version, again.data) == (2, {"n": 2})
        assert [event.version for event in await collected(store.get_events(GOVERNOR, STATE_ID))] == [1, 2]


@pytest.mark.parametrize("expected", [ANY, 1])
async def test_an_id_of_the_callers_own_is_named(expected: Any):
    """Where the caller gave an id, it is the one to ask with."""
    faulty, store = impatient()
    async with store:
        assert await unanswered(store, faulty, expected, "the caller's") == ("the caller's",)


async def test_a_change_at_a_version_is_found_at_its_place():
    """Asked again with the id of the event at ``expected + 1``, the stored change is returned."""
    faulty, store = impatient()
    async with store:
        await unanswered(store, faulty, 1, None)
        stored = (await collected(store.get_events(GOVERNOR, STATE_ID)))[-1]
        again = await store.update_state(GOVERNOR, STATE_ID, {"n": 2}, METADATA, expected=1, event_id=stored.event_id)
        assert (again.version, again.data) == (2, {"n": 2})


async def test_an_id_that_stands_twice_is_found():
    """Two events of one stream with the same id are reported."""
    clock = ManualClock(step_us=1)
    async with make_store(MemoryEngine(clock), clock, new_id=lambda: "twice") as store:
        await store.save_state(GOVERNOR, STATE_ID, {"n": 1}, METADATA)
        await store.update_state(GOVERNOR, STATE_ID, {"n": 2}, METADATA, expected=1)
        report = await StateMachinePersister(store).validate_consistency()
        assert not report.consistent
        assert any("twice" in finding.message for finding in report.findings)


class Outrun(Overtaken):
    """An engine in which somebody else is faster at each commit, once that begins."""

    rival: Callable[[], Awaitable[object]] | None = None

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if self.rival is not None:
            await self.rival()
        return await super().commit(writes)


async def _update(store: StateStore, event_id: str | None) -> Any:
    return await store.update_state(GOVERNOR, STATE_ID, {"n": 2}, METADATA, expected=ANY, event_id=event_id)


async def _log(store: StateStore, event_id: str | None) -> Any:
    return await store.log_event(GOVERNOR, STATE_ID, "mine", METADATA, expected=EXISTS, event_id=event_id)


async def _record(store: StateStore, event_id: str | None) -> Any:
    events = [NewEvent("add", 1, event_id)]
    return await StateMachinePersister(store, REDUCERS).record(GOVERNOR, STATE_ID, events, METADATA, expected=ANY)


@pytest.mark.parametrize("event_id", ["the caller's", None], ids=["own_id", "no_id"])
@pytest.mark.parametrize("change", [_update, _log, _record])
async def test_a_change_that_is_always_refused_is_known_to_have_failed(
    change: Callable[[StateStore, str | None], Awaitable[Any]], event_id: str | None
):
    """Where others are faster each time and each answer comes, nothing was written, and so it is said."""
    clock = ManualClock(step_us=1)
    inner = MemoryEngine(clock)
    engine = Outrun(inner)
    async with make_store(engine, clock, timeout_seconds=1.0) as store, make_store(Opened(inner), clock) as other:
        await store.save_state(GOVERNOR, STATE_ID, {"n": 1}, METADATA)
        engine.rival = lambda: other.log_event(GOVERNOR, STATE_ID, "theirs", METADATA)
        with pytest.raises(StoreTimeout) as told:
            await change(store, event_id)
        assert not told.value.unknown
        assert {event.action for event in await collected(other.get_events(GOVERNOR, STATE_ID))} == {"save", "theirs"}


KINDS = (Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DELAYED, Fault.DUPLICATED)


@pytest.mark.parametrize("commit", [1, 2], ids=["of_the_store", "of_the_governor"])
@pytest.mark.parametrize(
    "fault",
    KINDS,
    ids=lambda fault: fault.name.lower(),
)
async def test_the_first_change_of_a_store_is_looked_after(fault: Fault, commit: int):
    """Whatever becomes of the answers to a new store's first commits, its first change is made, once."""
    clock = ManualClock(step_us=1)
    faulty = FaultyEngine(MemoryEngine(clock), AtCalls({("commit", commit): fault}))
    async with make_store(faulty, clock) as store:
        saved = await store.save_state(GOVERNOR, STATE_ID, {"n": 1}, METADATA)
        assert faulty.statistics().all_hit
        await faulty.settle()
        assert saved == await store.get_state(GOVERNOR, STATE_ID)
        assert await collected(store.list_governors()) == [GOVERNOR]
        assert (await StateMachinePersister(store).validate_consistency()).consistent
    async with make_store(faulty, clock) as store:
        assert (await store.get_state(GOVERNOR, STATE_ID)).causality == saved.causality
