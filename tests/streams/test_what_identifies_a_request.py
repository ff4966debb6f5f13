"""What a repeated request must have in common with the first one, and what it is told where it has not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tai_state import ANY, ChangeMetadata, IdempotencyConflict, StateHandle, StateStore, open_store

from ..support.stores import METADATA

pytestmark = pytest.mark.anyio

EVENT_ID = "request 1"
AT = datetime(2026, 1, 31, 9, 15, tzinfo=UTC)
CHANGE: dict[str, Any] = {
    "data": {"n": 1},
    "metadata": ChangeMetadata("clerk", "order", {"ticket": 7}),
    "action": "save",
    "timestamp": AT,
}


@pytest.fixture
def anyio_backend() -> str:
    """What identifies a request does not depend on the event loop."""
    return "asyncio"


@pytest.fixture
async def store() -> AsyncIterator[StateStore]:
    """A store in memory."""
    async with open_store("memory://") as store:
        yield store


async def ask(store: StateStore, **changes: Any) -> int:
    """Make the request, with these parts of it changed; the version."""
    return (await store.save_state("g", "s", event_id=EVENT_ID, **{**CHANGE, **changes})).version


async def test_the_same_request_again_is_the_same(store: StateStore):
    """Nothing of it is changed: the first result comes back."""
    assert [await ask(store), await ask(store)] == [1, 1]


async def test_a_retry_may_carry_another_trace_id(store: StateStore):
    """What observes a request does not identify it: its retry has a trace id of its own."""
    traces: Any = ({"traceparent": "00-aaaa"}, {"traceparent": "00-bbbb"})
    versions = [await ask(store, metadata=ChangeMetadata("clerk", "order", trace=trace)) for trace in traces]
    assert versions == [1, 1]
    [event] = [each async for each in store.get_events("g", "s")]
    assert event.metadata.trace == traces[0]


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("context", {"metadata": ChangeMetadata("clerk", "order", {"ticket": 8})}),
        ("changed_by", {"metadata": ChangeMetadata("somebody", "order", {"ticket": 7})}),
        ("reason", {"metadata": ChangeMetadata("clerk", "return", {"ticket": 7})}),
        ("action", {"action": "store"}),
        ("data", {"data": {"n": 2}}),
        ("timestamp", {"timestamp": AT.replace(minute=16)}),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_the_part_that_differs_is_named(store: StateStore, part: str, changes: dict[str, Any]):
    """Another request under the same id is refused, and its caller is told which part is another one."""
    await ask(store)
    with pytest.raises(IdempotencyConflict) as refused:
        await ask(store, **changes)
    assert part in str(refused.value)


VERBS: dict[str, Callable[[StateHandle[dict[str, Any]]], Awaitable[object]]] = {
    "save": lambda state: state.save({"n": 1}, METADATA, expected=ANY, action="same", event_id=EVENT_ID),
    "update": lambda state: state.update(lambda _: {"n": 1}, METADATA, action="same", event_id=EVENT_ID),
    "log": lambda state: state.log("same", METADATA, event_id=EVENT_ID),
    "delete": lambda state: state.delete(METADATA, expected=ANY, action="same", event_id=EVENT_ID),
}


@pytest.mark.parametrize("second", VERBS)
@pytest.mark.parametrize("first", VERBS)
async def test_another_verb_differs_in_the_data(store: StateStore, first: str, second: str):
    """A change with the same id, action and metadata by another verb says something else of the state."""
    state = store.state("g", "s")
    await state.save({"n": 1}, METADATA)
    await VERBS[first](state)
    if first == second:
        await VERBS[second](state)
    else:
        with pytest.raises(IdempotencyConflict) as told:
            await VERBS[second](state)
        assert told.value.differs == ("data",)
    assert [event.version async for event in state.history()] == [1, 2]
