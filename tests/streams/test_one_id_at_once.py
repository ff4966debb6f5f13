"""One event id in several calls at once: each of them is told the result of the one that happened."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import pytest

from tai_state import (
    ANY,
    EXISTS,
    NewEvent,
    StateMachinePersister,
    StateStore,
)

from ..support.operations import REDUCERS
from ..support.overtaking import Overtaken
from ..support.stores import GOVERNOR, METADATA, collected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..support.stores import Place, Places

pytestmark = pytest.mark.anyio

STATE_ID = "alice"
EVENT_ID = "request 1"


class Request(NamedTuple):
    """A change with a caller's id.

    Attributes:
        name: for the test's id.
        versions: how many versions the state has beforehand.
        make: the call; gives the version that it made, and the state's data then.
    """

    name: str
    versions: int
    make: Callable[[StateStore], Awaitable[tuple[int, Any]]]


async def _save(store: StateStore) -> tuple[int, Any]:
    saved = await store.save_state(GOVERNOR, STATE_ID, {"n": 10}, METADATA, event_id=EVENT_ID)
    return saved.version, saved.data


async def _update_exact(store: StateStore) -> tuple[int, Any]:
    saved = await store.update_state(GOVERNOR, STATE_ID, {"n": 10}, METADATA, expected=2, event_id=EVENT_ID)
    return saved.version, saved.data


async def _update_any(store: StateStore) -> tuple[int, Any]:
    saved = await store.update_state(GOVERNOR, STATE_ID, {"n": 10}, METADATA, expected=ANY, event_id=EVENT_ID)
    return saved.version, saved.data


async def _delete(store: StateStore) -> tuple[int, Any]:
    deleted = await store.delete_state(GOVERNOR, STATE_ID, METADATA, expected=EXISTS, event_id=EVENT_ID)
    return deleted.version, deleted.data


async def _log(store: StateStore) -> tuple[int, Any]:
    event = await store.log_event(GOVERNOR, STATE_ID, "seen", METADATA, event_id=EVENT_ID)
    return event.version, event.to_state


async def _record(store: StateStore) -> tuple[int, Any]:
    events = [NewEvent("add", 5, EVENT_ID)]
    persister = StateMachinePersister(store, REDUCERS)
    [event] = await persister.record(GOVERNOR, STATE_ID, events, METADATA, expected=ANY)
    return event.version, event.to_state


async def _log_transition(store: StateStore) -> tuple[int, Any]:
    before = await store.get_state_at(GOVERNOR, STATE_ID, 2)
    after = before.with_data({"n": 10})
    event = await StateMachinePersister(store).log_transition(
        GOVERNOR, before, after, "step", METADATA, event_id=EVENT_ID
    )
    return event.version, event.to_state


async def _handle_update(store: StateStore) -> tuple[int, Any]:
    handle = store.state(GOVERNOR, STATE_ID)
    updated = await handle.update(lambda now: {"n": now["n"] + 5}, METADATA, event_id=EVENT_ID)
    return updated.version, updated.data


REQUESTS = (
    Request("save_state", 0, _save),
    Request("update_state_exact", 2, _update_exact),
    Request("update_state_any", 2, _update_any),
    Request("delete_state", 2, _delete),
    Request("log_event", 2, _log),
    Request("record", 2, _record),
    Request("log_transition", 2, _log_transition),
    Request("handle_update", 2, _handle_update),
)


async def prepare(place: Place, request: Request) -> None:
    """Write what the request starts from."""
    async with place.store() as store:
        for version in range(request.versions):
            await store.save_state(GOVERNOR, STATE_ID, {"n": version}, METADATA, expected=version)


async def check_it_happened_once(store: StateStore, request: Request) -> None:
    """The stream holds one event more than before, and that has the id."""
    ids = [event.event_id for event in await collected(store.get_events(GOVERNOR, STATE_ID))]
    assert len(ids) == request.versions + 1
    assert ids[-1] == EVENT_ID


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: each.name)
async def test_several_tasks_ask_at_once(memory_places: Places, request_: Request):
    """Three tasks that make the same request get the same result, and it happens once."""
    place = memory_places.new()
    await prepare(place, request_)
    results: list[tuple[int, Any]] = []
    failures: list[Exception] = []

    async def ask(store: StateStore) -> None:
        try:
            results.append(await request_.make(store))
        except Exception as error:  # noqa: BLE001 - raised again below, outside the group
            failures.append(error)

    async with place.store() as store:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask, store)
        if failures:
            raise failures[0]
        assert results == [results[0]] * 3
        assert results[0][0] == request_.versions + 1
        await check_it_happened_once(store, request_)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: each.name)
async def test_another_process_asks_in_the_middle(memory_places: Places, request_: Request):
    """Wherever the same request of another process comes in between, both get the same result, and it happens once."""
    for number in count(1):
        place = memory_places.new()
        await prepare(place, request_)
        others: list[tuple[int, Any]] = []
        engine = Overtaken(place.engine())
        async with place.store(engine) as store, place.store() as other:

            async def ask_too(other: StateStore = other, others: list[tuple[int, Any]] = others) -> None:
                others.append(await request_.make(other))

            engine.plan(number, ask_too)
            result = await request_.make(store)
            if engine.calls < number:
                break
            assert [result] == others
            await check_it_happened_once(other, request_)
    assert number > 1
