"""What a check advises: one cause is told once, and whoever follows the advice gets somewhere."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tai_state import StateMachinePersister, StateStore, TaiStateError, open_store, sync
from tai_state.engines.api import ANYTHING, Delete

from ..support.stores import GOVERNOR, METADATA, edit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

STATE_ID = "alice"
VERSIONS = 5
RECOVER = "tai-state recover"


@pytest.fixture
def anyio_backend() -> str:
    """What is found does not depend on the event loop."""
    return "asyncio"


@pytest.fixture
async def store() -> AsyncIterator[StateStore]:
    """A store with a state at version 5."""
    async with open_store("memory://") as store:
        for version in range(VERSIONS):
            await store.save_state(GOVERNOR, STATE_ID, {"n": version}, METADATA, expected=version)
        yield store


@pytest.mark.parametrize(
    ("version", "changes"),
    [
        pytest.param(None, {"version": 2}, id="state_set_back"),
        pytest.param(None, {"version": 9}, id="state_set_ahead"),
        pytest.param(None, {"as_of": "2001-01-01T00:00:00.000000Z"}, id="state_as_of"),
        pytest.param(3, {"version": 2}, id="event_version"),
        pytest.param(3, {"to_state": '{"n":77}'}, id="event_state"),
        pytest.param(3, {"action": "other"}, id="event_action"),
        pytest.param(VERSIONS, {"action": "other"}, id="last_event_action"),
    ],
)
async def test_one_edit_is_one_finding(store: StateStore, version: int | None, changes: dict[str, Any]):
    """One edited field of one document is told once, and at that document."""
    stream = store.core.layout.stream(GOVERNOR, STATE_ID)
    path = stream.state if version is None else stream.event(version)
    await edit(store.core.engine, path, **changes)
    report = await StateMachinePersister(store).validate_consistency()
    assert [finding.path for finding in report.findings] == [path]


async def _edit_state(store: StateStore) -> None:
    await edit(store.core.engine, store.core.layout.stream(GOVERNOR, STATE_ID).state, data={"n": 78})


async def _remove_state(store: StateStore) -> None:
    await store.core.engine.commit([Delete(store.core.layout.stream(GOVERNOR, STATE_ID).state, ANYTHING)])


async def _advice(store: StateStore) -> str:
    """All that a check, a sync, a read and a write say of the state."""
    said = [finding.message for finding in (await StateMachinePersister(store).validate_consistency()).findings]
    async with open_store("memory://") as other:
        said += [why for _, why in (await sync(store, other)).failed]
    for call in (
        partial(store.get_state, GOVERNOR, STATE_ID),
        partial(store.save_state, GOVERNOR, STATE_ID, {}, METADATA, expected=VERSIONS),
    ):
        try:
            await call()
        except TaiStateError as error:
            said.append(str(error))
    return "\n".join(said)


@pytest.mark.parametrize("damage", [_edit_state, _remove_state])
async def test_recover_is_advised_where_it_mends(store: StateStore, damage: Any):
    """A state that its stream can give back is to be recovered; afterwards nothing is left to say."""
    await damage(store)
    assert RECOVER in await _advice(store)
    report = await StateMachinePersister(store).recover()
    assert (len(report.rebuilt), report.failed) == (1, ())
    assert not await _advice(store)


@pytest.mark.parametrize("damage", [_edit_state, _remove_state])
async def test_what_recover_cannot_mend_is_to_be_restored(store: StateStore, damage: Any):
    """Where the stream is damaged, too, all advice is to restore a backup."""
    await damage(store)
    await edit(store.core.engine, store.core.layout.stream(GOVERNOR, STATE_ID).event(VERSIONS), to_state='{"n":77}')
    [(_, why)] = (await StateMachinePersister(store).recover()).failed
    advice = await _advice(store)
    assert RECOVER not in advice
    assert "restore a backup" in why
    assert "restore a backup" in advice


async def test_a_sync_names_a_state_that_is_set_back(store: StateStore):
    """A state behind its own stream is one that cannot be synced, and the others are."""
    await store.save_state(GOVERNOR, "bob", {}, METADATA)
    await edit(store.core.engine, store.core.layout.stream(GOVERNOR, STATE_ID).state, version=2)
    async with open_store("memory://") as other:
        report = await sync(store, other)
        assert [path for path, _ in report.failed] == [f"{GOVERNOR} {STATE_ID}"]
        assert (await other.get_state(GOVERNOR, "bob")).data == {}
