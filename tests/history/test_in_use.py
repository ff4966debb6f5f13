"""Histories that are looked at while others write: what is consistent is found so, and damage is found all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tai_state import (
    ANY,
    EventSourcingError,
    EveryEvents,
    Never,
    NotRetained,
    RecoveryReport,
    SnapshotPolicy,
    StateMachinePersister,
    StateStore,
)
from tai_state.engines.api import Document, Engine, Reading, Scan, after
from tai_state.engines.paging import Paged, take
from tai_state.values.events import JsonEvent

from ..support.stores import GOVERNOR, METADATA, AroundEngine, Place, collected, edit

pytestmark = pytest.mark.anyio

ALICE = "governors/bank/states/alice"
PAGE = 3
HOUR = 3_600_000_000


def event_path(version: int) -> str:
    """The path of an event."""
    return f"governors/bank/events/alice~{version:012d}"


class InUse(AroundEngine):
    """Something happens before each read and before each page of a scan, which are short.

    Attributes:
        meanwhile: what happens; it goes to the engine as if nothing happened.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def read(self, paths: Sequence[str]) -> Reading:  # noqa: D102
        await self._happen()
        return await self._engine.read(paths)

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        begin, left, is_over = scan.start, scan.limit, False

        async def fetch() -> Sequence[Document] | None:
            nonlocal begin, left, is_over
            if is_over:
                return None
            await self._happen()
            size = PAGE if left is None else min(PAGE, left)
            page = await take(self._engine.scan(msgspec.structs.replace(scan, start=begin, limit=size)), size)
            begin = after(page[-1].id) if page else begin
            left = None if left is None else left - len(page)
            is_over = len(page) < PAGE
            return page

        return Paged(fetch)

    async def _happen(self) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
            self.meanwhile = meanwhile


@pytest.fixture(params=[EveryEvents(4, keep=2), Never()], ids=["some", "none"])
async def store(place: Place, request: pytest.FixtureRequest) -> AsyncIterator[StateStore]:
    """An open store on an engine that others use, with a few kept snapshots, or none."""
    policy: SnapshotPolicy = request.param
    async with place.store(InUse(place.engine()), snapshots=policy) as store:  # type: ignore[arg-type]
        for version in range(10):
            await store.save_state(GOVERNOR, "alice", {"n": version}, METADATA, expected=version)
        yield store


def written(store: StateStore) -> InUse:
    """From now on the state is written before each look at the engine."""
    engine: Any = store.core.engine
    engine.meanwhile = lambda: store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA, expected=ANY)
    return engine


async def test_a_state_that_others_write_is_consistent(store: StateStore):
    """Verification holds a state against its stream up to the version read: later events are later writers'."""
    written(store)
    for _ in range(3):
        report = await StateMachinePersister(store).validate_consistency(GOVERNOR)
        assert report.consistent, report.findings


async def test_a_state_that_others_write_is_sound(store: StateStore):
    """Recovery and loading take a state that moves on and agrees with its stream for what it is."""
    written(store)
    persister = StateMachinePersister(store)
    for _ in range(3):
        assert await persister.recover(GOVERNOR) == RecoveryReport(checked=1, sound=1)
        assert not (await persister.load_state(GOVERNOR, "alice")).recovered


async def test_damage_is_found_while_others_write(store: StateStore):
    """An edited event is found, and is all that is found, however often its state is written meanwhile."""
    path = event_path(5)
    await edit(store.core.engine, path, action="edited")
    written(store)
    report = await StateMachinePersister(store).validate_consistency(GOVERNOR)
    assert [(each.path, each.kind) for each in report.findings] == [(path, "digest")]


HISTORIES: dict[str, Callable[[StateStore], Paged[JsonEvent]]] = {
    "get_events": lambda store: store.get_events(GOVERNOR, "alice"),
    "get_events_until": lambda store: store.get_events(GOVERNOR, "alice", until=5),
    "get_all_events": lambda store: store.get_all_events(GOVERNOR),
    "replay": lambda store: StateMachinePersister(store).replay(GOVERNOR, "alice"),
    "replay_until": lambda store: StateMachinePersister(store).replay(GOVERNOR, "alice", until=5),
}


@pytest.mark.parametrize("name", HISTORIES)
async def test_what_is_cleaned_up_between_two_pages_is_said_to_be(place: Place, name: str):
    """A history whose events are cleaned up while it is read ends as not retained; one with a true gap as damaged."""
    async with place.store(InUse(place.engine()), snapshots=EveryEvents(3, keep=9)) as store:  # type: ignore[arg-type]
        for version in range(10):
            await store.save_state(GOVERNOR, "alice", {"n": version}, METADATA, expected=version)
        place.clock.advance_us(10 * HOUR)
        cleaned, damaged = HISTORIES[name](store), HISTORIES[name](store)
        assert [(await anext(events)).version for events in (cleaned, damaged)] == [1, 1]
        done = await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))
        assert done.events_deleted == 5
        with pytest.raises(NotRetained, match="was cleaned up") as error:
            await collected(cleaned)
        assert error.value.path == event_path(4)
        await edit(store.core.engine, ALICE, floor=1)
        if "until" not in name or "replay" in name:
            with pytest.raises(EventSourcingError, match="restore a backup"):
                await collected(damaged)
