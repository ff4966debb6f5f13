"""A store was edited so that no checksum shows it: a sync takes over nothing of that, and says where it is."""

from __future__ import annotations

from typing import Any

import pytest

from tai_state import ANY, FieldMerge, StateMachinePersister, sync
from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ManualClock

from ..support.stores import GOVERNOR, METADATA, edit, fields_at, make_store

pytestmark = pytest.mark.anyio

EVENT = f"governors/{GOVERNOR}/events/b~000000000003"
STATE = f"governors/{GOVERNOR}/states/b"
EDITS: dict[str, tuple[str, dict[str, Any]]] = {
    "another state": (EVENT, {"to_state": '{"n":99}'}),
    "no state": (EVENT, {"to_state": "{1}"}),
    "another hash": (EVENT, {"state_hash": "0" * 64}),
    "no hash": (EVENT, {"state_hash": "zz"}),
    "another action": (EVENT, {"action": "edited"}),
    "no chain": (EVENT, {"previous": "zz"}),
    "a floor above the version": (STATE, {"floor": 9}),
}


@pytest.fixture
def anyio_backend() -> str:
    """What is copied does not depend on the event loop."""
    return "asyncio"


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("what", EDITS)
async def test_what_was_edited_does_not_spread(clock: ManualClock, what: str, *, is_first: bool) -> None:
    """The state is named as failed, all others are synced, and the sound store stays sound."""
    path, changes = EDITS[what]
    async with make_store(MemoryEngine(clock), clock) as store, make_store(MemoryEngine(clock), clock) as other:
        for state in "abc":
            for n in range(4):
                await store.save_state(GOVERNOR, state, {"n": n}, METADATA, expected=ANY, event_id=f"{state}{n}")
        await edit(store.core.engine, path, **changes)
        for dry_run in (True, False):
            report = await sync(*((store, other) if is_first else (other, store)), dry_run=dry_run)
            assert [place for place, _ in report.failed] == [f"{GOVERNOR} b"]
            assert path in report.failed[0][1]
            assert report.checked == 3
        assert [each.state_id async for each in other.list_states(GOVERNOR)] == ["a", "c"]
        assert (await StateMachinePersister(other).validate_consistency()).findings == ()


@pytest.mark.parametrize("text", ['{"m":8,"n":2}', "{1}"])
async def test_a_version_that_was_edited_is_no_base_of_a_merge(clock: ManualClock, text: str) -> None:
    """Both stores changed the state since then: what the merge drops is on record, as if it had no base."""
    async with make_store(MemoryEngine(clock), clock) as store, make_store(MemoryEngine(clock), clock) as other:
        for n in range(3):
            await store.save_state(GOVERNOR, "b", {"n": n, "m": n}, METADATA, expected=ANY)
        assert (await sync(store, other)).complete
        await store.save_state(GOVERNOR, "b", {"n": 7, "m": 2}, METADATA, expected=ANY)
        await other.save_state(GOVERNOR, "b", {"n": 2, "m": 8}, METADATA, expected=ANY)
        for each in (store, other):
            assert (await fields_at(each.core.engine, EVENT))["to_state"] == '{"m":2,"n":2}'
            await edit(each.core.engine, EVENT, to_state=text)
        report = await sync(store, other, resolver=FieldMerge())
        assert [each.discarded for each in report.conflicts] == [2]
