"""What a change records, and what is refused before it is sent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tai_state import (
    ChangeMetadata,
    CommitTooLarge,
    DocumentTooLarge,
    InvalidData,
    NewEvent,
    StateMachinePersister,
    StateStore,
)
from tai_state.values.times import from_us

from ..support.stores import GOVERNOR, METADATA, Place, collected

pytestmark = pytest.mark.anyio


# Events and their times ----------------------------------------------------------------------------------------


async def test_recorded_time_is_the_engines(place: Place, store: StateStore):
    """What a caller says of the time is kept as said; when it was stored is the engine's own word."""
    said = datetime(2001, 2, 3, 4, 5, 6, 7, tzinfo=UTC)
    first = from_us(place.clock.now_us())
    saved = await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, timestamp=said)
    assert (saved.timestamp, saved.recorded_at) == (said, first)
    place.clock.advance_us(1_000_000)
    updated = await store.update_state(GOVERNOR, "alice", {"n": 2}, METADATA, expected=saved)
    second = from_us(place.clock.now_us())
    assert (updated.timestamp, updated.recorded_at) == (second, second)
    assert (await store.get_state(GOVERNOR, "alice")).recorded_at == second
    events = await collected(store.get_events(GOVERNOR, "alice"))
    assert [(event.timestamp, event.recorded_at) for event in events] == [(said, first), (second, second)]


async def test_times_with_offsets_are_the_same_moment(store: StateStore):
    """A time with another offset is the same moment in UTC; one without any is refused."""
    there = datetime(2026, 1, 31, 23, 0, tzinfo=UTC).astimezone(tz=None)
    saved = await store.save_state(GOVERNOR, "alice", {}, METADATA, timestamp=there)
    assert saved.timestamp == datetime(2026, 1, 31, 23, 0, tzinfo=UTC)
    with pytest.raises(InvalidData):
        await store.save_state(GOVERNOR, "bob", {}, METADATA, timestamp=datetime(2026, 1, 31))  # noqa: DTZ001
    assert not await store.exists(GOVERNOR, "bob")


async def test_metadata_tells_the_version_before(store: StateStore):
    """Each change tells who made it and on which version, whatever the caller put there."""
    metadata = ChangeMetadata("ann", "why", {"ticket": {"n": 1}}, parent_version=77)
    await store.save_state(GOVERNOR, "alice", {}, metadata)
    state = await store.update_state(GOVERNOR, "alice", {}, metadata, expected=1)
    assert state.metadata == ChangeMetadata("ann", "why", {"ticket": {"n": 1}}, parent_version=1)


@pytest.mark.parametrize("expected", [-1, True, 1.0, "1", None, 10**12])
async def test_expected_must_mean_something(store: StateStore, expected: Any):
    """What is no version and no expectation is refused before anything is sent."""
    with pytest.raises(InvalidData):
        await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=expected)
    assert not await store.exists(GOVERNOR, "alice")


# What is the caller's stays the caller's -----------------------------------------------------------------------


async def test_what_is_too_large_is_refused_whole(store: StateStore):
    """Data over the engine's limit is refused before it is sent, and the store goes on as if nothing had been."""
    await store.save_state(GOVERNOR, "alice", {"n": 0}, METADATA)
    with pytest.raises(DocumentTooLarge) as error:
        await store.update_state(GOVERNOR, "alice", {"text": "x" * 1_100_000}, METADATA, expected=1)
    assert error.value.size > error.value.limit == store.core.engine.capabilities.max_document_bytes
    with pytest.raises(CommitTooLarge):
        await StateMachinePersister(store).record(
            GOVERNOR,
            "alice",
            [NewEvent("note")] * store.core.engine.capabilities.max_ops_per_commit,
            METADATA,
            expected=1,
        )
    assert (await store.update_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=1)).version == 2
    assert (await StateMachinePersister(store).validate_consistency()).consistent
