"""The stored form: a golden history whose digests never change."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from tai_state import EXISTS, NewEvent, StateMachinePersister, StateStore

from ..support.histories import add, snapshot_path
from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, Place, collected, edit, fix_identity

pytestmark = pytest.mark.anyio

GOLDEN_DIGESTS = (
    "38b25eca86a65e91890ebe9e8b9fc7f9c02411635b79434c65e0125f66f2af6c",
    "65cd3248dfaa333675b240803ed987b07bf0f6e7e0b5282b97b9793cc03327f5",
    "7b37e9068a351a0d6e57fc9b619d6227b91d5194b1aeacc3ad9f2fb39943ae95",
    "cc9c1b13aea7c3c58b769fc2cfe0312f7e20c75da160cd6c91edcee899340c7e",
)


async def test_golden_history(place: Place, monkeypatch: pytest.MonkeyPatch):
    """The stored form is the format: these digests, computed without the library, must never change."""
    monkeypatch.setattr("tai_state.streams.settings.AHEAD_MAX_US", 100_000_000_000_000)
    place.clock.advance_us(1_700_000_000_000_000 - place.clock.now_us())
    async with place.store() as store:
        await fix_identity(store.core.engine)
    async with place.store() as store:
        persister = StateMachinePersister(store, REDUCERS)
        await store.save_state(
            GOVERNOR,
            "a/lice",
            {"n": 1, "é": [1.5, None]},
            METADATA,
            event_id="first",
            timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        )
        await persister.record(GOVERNOR, "a/lice", [NewEvent("add", 2)], METADATA, expected=EXISTS)
        await store.log_event(GOVERNOR, "a/lice", "ping", METADATA, payload={"x": "y"})
        await store.delete_state(GOVERNOR, "a/lice", METADATA, expected=3)
        events = await collected(store.get_events(GOVERNOR, "a/lice"))
        assert tuple(event.digest for event in events) == GOLDEN_DIGESTS
        assert [event.causality for event in events] == [{"00000000000000aa": number} for number in range(1, 5)]


async def test_skipped_snapshots_are_logged(
    store: StateStore, persister: StateMachinePersister, caplog: pytest.LogCaptureFixture
):
    """A snapshot that cannot be used is a warning with its path, and the answer is right all the same."""
    await add(persister, 7)
    await edit(store.core.engine, snapshot_path(6), state='{"n":1000}')
    caplog.set_level(logging.WARNING, "tai_state")
    assert (await persister.get_state_at(GOVERNOR, "alice", 7)).data == {"n": 7}
    assert [vars(record)["path"] for record in caplog.records] == [snapshot_path(6)]
