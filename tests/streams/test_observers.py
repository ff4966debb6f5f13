"""Observers of a store: what they are told of commits, outcomes and waits, and that they harm nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import anyio
import pytest

from tai_state import (
    ANY,
    Attempted,
    CommitTooLarge,
    DocumentTooLarge,
    Observer,
    StoreUnavailable,
    VersionConflict,
    open_store,
)
from tai_state.engines.api import Write
from tai_state.testing import AtCalls, Fault, FaultyEngine

from ..support.observing import Recorder
from ..support.stores import GOVERNOR, METADATA, AroundEngine, Place

pytestmark = pytest.mark.anyio

ALICE = "governors/bank/states/alice"


async def test_a_change_is_told_with_its_commit_and_its_outcome(place: Place):
    """Of a change that nothing disturbs, an observer is told one commit, with all its documents, and its outcome."""
    seen = Recorder()
    async with place.store(observer=seen) as store:
        await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA)
        seen.forget()
        await store.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=1)
    [attempted], [settled] = seen.attempts, seen.outcomes
    assert (attempted.number, attempted.outcome) == (1, "applied")
    assert {ALICE, "governors/bank/events/alice~000000000002"} <= {*attempted.paths}
    assert ALICE in settled.paths
    assert (settled.attempts, settled.error, seen.waits) == (1, None, [])
    assert settled.seconds >= attempted.seconds > 0


@pytest.mark.parametrize(
    ("fault", "outcomes", "error"),
    [
        (Fault.UNAVAILABLE, ["unavailable"], "StoreUnavailable"),
        (Fault.REFUSED, ["refused", "applied"], None),
        (Fault.LOST_BEFORE, ["unanswered", "applied"], None),
        (Fault.LOST_AFTER, ["unanswered"], None),
        (Fault.DUPLICATED, ["refused"], None),
    ],
    ids=lambda each: each.value if isinstance(each, Fault) else None,
)
async def test_each_commit_is_told_with_what_became_of_it(
    place: Place, fault: Fault, outcomes: list[str], error: str | None
):
    """A commit that fails is told as refused, unanswered or unavailable, and the outcome counts all commits."""
    seen = Recorder()
    engine = FaultyEngine(place.engine(), AtCalls({}))
    async with place.store(engine, observer=seen) as store:
        state = await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA)
        seen.forget()
        commits = engine.statistics().calls
        engine.plan = AtCalls({("any", commits + 1): fault})
        try:
            await store.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=state)
        except StoreUnavailable:
            assert error == "StoreUnavailable"
    assert engine.statistics().all_hit
    assert [each.outcome for each in seen.attempts] == outcomes
    assert [each.number for each in seen.attempts] == [*range(1, len(outcomes) + 1)]
    assert [(each.attempts, each.error) for each in seen.outcomes] == [(len(outcomes), error)]


async def test_a_conflict_is_told_as_such(place: Place):
    """A change that others were faster than ends with the name of its error."""
    seen = Recorder()
    async with place.store(observer=seen) as store, place.store() as other:
        await store.save_state(GOVERNOR, "alice", {}, METADATA)
        await other.update_state(GOVERNOR, "alice", {}, METADATA, expected=1)
        seen.forget()
        with pytest.raises(VersionConflict):
            await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=1)
    assert [each.outcome for each in seen.attempts] == ["refused"]
    assert [(each.attempts, each.error) for each in seen.outcomes] == [(1, "VersionConflict")]


async def test_a_commit_that_no_engine_takes_is_told_as_too_large(place: Place):
    """A document over the engine's limit ends its change with one try."""
    seen = Recorder()
    async with place.store(observer=seen) as store:
        await store.save_state(GOVERNOR, "alice", {}, METADATA)
        seen.forget()
        with pytest.raises((DocumentTooLarge, CommitTooLarge)) as raised:
            await store.update_state(GOVERNOR, "alice", {"text": "x" * 2**21}, METADATA, expected=1)
    assert {each.outcome for each in seen.attempts} == {"too large"}
    assert [each.error for each in seen.outcomes] == [raised.type.__name__]


class Silent(AroundEngine):
    """An engine that answers no commit once it is told so."""

    is_silent = False

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if self.is_silent:
            await anyio.sleep_forever()
        return await self._engine.commit(writes)


async def test_a_cancelled_commit_is_told_as_broken_off(place: Place):
    """A change whose task is cancelled is told, with no error of the library."""
    seen, engine = Recorder(), Silent(place.engine())
    async with place.store(engine, observer=seen) as store:  # type: ignore[arg-type]
        await store.save_state(GOVERNOR, "alice", {}, METADATA)
        seen.forget()
        engine.is_silent = True
        with anyio.move_on_after(0) as scope:
            await store.update_state(GOVERNOR, "alice", {}, METADATA, expected=1)
    assert scope.cancelled_caught
    assert [each.outcome for each in seen.attempts] == ["broken off"]
    assert [each.error for each in seen.outcomes] in (["CancelledError"], ["Cancelled"])


async def test_a_wait_for_a_turn_is_told(place: Place):
    """Tasks that change one state tell that they waited for each other; one that gave up did not have its turn."""
    seen = Recorder()
    async with place.store(observer=seen) as store:
        counter = store.state(GOVERNOR, "alice")
        await counter.save({"n": 0}, METADATA)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(counter.update, lambda now: {"n": now["n"] + 1}, METADATA)
        assert [(each.kind, each.paths, each.is_acquired) for each in seen.waits] == [("turn", (ALICE,), True)] * 2
        seen.forget()
        async with store.core.turns.of([ALICE]):
            with anyio.move_on_after(0):
                await counter.log("seen", METADATA)
    assert [(each.kind, each.paths, each.is_acquired) for each in seen.waits] == [("turn", (ALICE,), False)]
    assert seen.attempts == []


async def test_no_data_is_told(place: Place):
    """What is told names documents and numbers, and holds nothing of states, payloads or metadata."""
    seen = Recorder()
    async with place.store(observer=seen) as store:
        state = await store.save_state(GOVERNOR, "alice", {"hidden": "hidden"}, METADATA, payload="hidden")
        await store.log_event(GOVERNOR, "alice", "seen", METADATA, payload={"hidden": 1})
        with pytest.raises(VersionConflict):
            await store.update_state(GOVERNOR, "alice", {"hidden": 2}, METADATA, expected=state)
    told = repr([*seen.attempts, *seen.outcomes])
    assert ALICE in told
    assert "hidden" not in told
    assert METADATA.changed_by not in told


class Broken(Observer):
    """An observer that fails each time."""

    def attempt(self, attempted: Attempted) -> NoReturn:
        """Fail."""
        raise ZeroDivisionError(attempted.number)

    settled = waited = attempt  # type: ignore[assignment]


async def test_an_observer_that_fails_harms_no_change(place: Place, caplog: pytest.LogCaptureFixture):
    """What an observer raises is logged, and changes, locks and errors are as without it."""
    async with place.store(observer=Broken()) as store:
        counter = store.state(GOVERNOR, "alice")
        async with store.lock("r") as lease:
            await counter.save({"n": 0}, METADATA, fence=lease)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(counter.update, lambda now: {"n": now["n"] + 1}, METADATA)
        with pytest.raises(VersionConflict):
            await counter.update(lambda now: now, METADATA, expected=1)
        assert (await counter.get()).data == {"n": 3}
    failed = [record for record in caplog.records if record.message == "an observer failed"]
    assert len(failed) > 10
    assert {record.levelname for record in failed} == {"ERROR"}


async def test_an_observer_that_misses_methods_is_refused():
    """What is no observer is refused by ``open_store``; a subclass of Observer needs no method of its own."""
    for wrong in (object(), Recorder):
        with pytest.raises(TypeError, match="observer"):
            open_store("memory://", observer=wrong)  # type: ignore[arg-type]

    class Idle(Observer):
        """Is interested in nothing."""

    async with open_store("memory://", observer=Idle()) as store:
        await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=ANY)
