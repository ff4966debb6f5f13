"""What logs and errors tell, and what they never hold."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tai_state import ANY, ChangeMetadata, EveryEvents, NewEvent, StateMachinePersister, TaiStateError, VersionConflict
from tai_state.engines.api import ANYTHING, Delete

from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, Place, collected, edit

pytestmark = pytest.mark.anyio


async def test_neither_logs_nor_errors_hold_state_data(place: Place, caplog: pytest.LogCaptureFixture):
    """Nothing that callers keep in states, payloads and contexts appears in a log record or an error's text."""
    caplog.set_level(logging.DEBUG, "tai_state")
    canary = "CANARY-5f2e"
    data = {"secret": canary, canary: 1}
    metadata = ChangeMetadata("ann", canary, {canary: canary})
    errors: list[TaiStateError] = []

    async def failing(call: Callable[[], Any]) -> None:
        with pytest.raises(TaiStateError) as error:
            await call()
        errors.append(error.value)

    async with place.store(snapshots=EveryEvents(2, keep=2)) as store:
        persister = StateMachinePersister(store, REDUCERS)
        for version in range(4):
            await store.save_state(GOVERNOR, "alice", data, metadata, expected=version, event_id=f"id-{version}")
        await store.log_event(GOVERNOR, "alice", "ping", metadata, payload=canary)
        await failing(lambda: store.save_state(GOVERNOR, "alice", data, metadata))
        await failing(lambda: store.save_state(GOVERNOR, "alice", {canary: 1}, metadata, event_id="id-1"))
        await failing(lambda: store.save_state(GOVERNOR, "x", {canary: {canary}}, metadata))
        await failing(lambda: store.save_state(GOVERNOR, "x", {canary: "x" * 1_100_000}, metadata))
        await failing(lambda: persister.record(GOVERNOR, "alice", [NewEvent("x", {canary})], metadata, expected=ANY))
        await store.core.engine.commit([Delete("governors/bank/states/alice", ANYTHING)])
        await failing(lambda: store.save_state(GOVERNOR, "alice", data, metadata))

        await edit(store.core.engine, "governors/bank/snapshots/alice~000000000004", state=f'{{"a":"{canary}"}}')
        assert await store.recover(GOVERNOR)
        assert await collected(persister.replay(GOVERNOR, "alice"))
        await edit(store.core.engine, "governors/bank/states/alice", data={"secret": f"{canary} and more"})
        await failing(lambda: store.get_state(GOVERNOR, "alice"))
        await edit(store.core.engine, "governors/bank/states/alice", version=canary)
        await failing(lambda: store.get_state(GOVERNOR, "alice"))
        await edit(store.core.engine, "governors/bank/events/alice~000000000002", to_state=canary)
        await failing(lambda: collected(store.get_events(GOVERNOR, "alice")))
        report = await persister.validate_consistency()
        assert report.findings
    told = [*map(repr, report.findings), *(f"{error} {error.fields()} {error.__cause__!r}" for error in errors)]
    for record in caplog.records:
        told.append(f"{record.getMessage()} {vars(record)}")
    # The path in an InvalidData names the key, which a caller cannot do without.
    told = [each for each in told if "is not plain JSON" not in each]
    assert caplog.records
    assert not [each for each in told if canary in each]


async def test_log_records_name_the_document(place: Place, caplog: pytest.LogCaptureFixture):
    """Conflicts and repairs are logged as warnings, with the path as a field of the record."""
    caplog.set_level(logging.WARNING, "tai_state")
    async with place.store() as store:
        await store.save_state(GOVERNOR, "alice", {}, METADATA)
        with pytest.raises(VersionConflict):
            await store.save_state(GOVERNOR, "alice", {}, METADATA, expected=9)
        await store.core.engine.commit([Delete("governors/bank/states/alice", ANYTHING)])
        await store.recover(GOVERNOR)
    assert [(record.name.split(".")[1], vars(record)["path"]) for record in caplog.records] == [
        ("store", "governors/bank/states/alice"),
        ("history", "governors/bank/states/alice"),
    ]
