"""Arguments that mean nothing are refused by the call that is given them, before anything was done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from tai_state import (
    ANY,
    AnyOf,
    EveryBytes,
    EveryEvents,
    EveryInterval,
    InvalidData,
    StateMachinePersister,
    StateStore,
    open_store,
)

from ..support.stores import GOVERNOR, METADATA, Places, collected

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: arguments are looked at before it is used."""
    return "asyncio"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"schema": True}, TypeError),
        ({"schema": -1}, ValueError),
        ({"timeout_seconds": None}, TypeError),
        ({"timeout_seconds": True}, TypeError),
        ({"create": "no"}, TypeError),
        ({"upcasters": [], "schema": 1}, TypeError),
    ],
    ids=["schema_true", "schema_below_0", "timeout_none", "timeout_true", "create_text", "upcasters_list"],
)
def test_a_stores_options_are_checked_when_they_are_given(options: dict[str, Any], error: type[Exception]):
    """What no store can be opened with is refused by ``open_store``, which names the option."""
    with pytest.raises(error, match=next(iter(options))):
        open_store("memory://", **options)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: EveryEvents(True), id="events_true"),
        pytest.param(lambda: EveryEvents(1.5), id="events_broken"),  # type: ignore[arg-type]
        pytest.param(lambda: AnyOf(100), id="any_of_numbers"),  # type: ignore[arg-type]
        pytest.param(lambda: EveryEvents(0), id="events_0"),
        pytest.param(lambda: EveryEvents("x"), id="events_text"),  # type: ignore[arg-type]
        pytest.param(lambda: EveryBytes("x"), id="bytes_text"),  # type: ignore[arg-type]
        pytest.param(lambda: EveryInterval(5), id="interval_number"),  # type: ignore[arg-type]
        pytest.param(lambda: EveryEvents(1, keep=0), id="keep_0"),
    ],
)
def test_a_policys_arguments_are_checked_when_they_are_given(make: Callable[[], Any]):
    """A policy that could not decide is refused when it is made, and not by the first change that asks it."""
    with pytest.raises((TypeError, ValueError)):
        make()


Call = Callable[[StateStore], Awaitable[object]]


def _save(**arguments: Any) -> Call:
    return lambda store: store.save_state(GOVERNOR, "s", {"n": 2}, METADATA, **{"expected": ANY, **arguments})


def _events(**bounds: Any) -> Call:
    return lambda store: collected(store.get_events(GOVERNOR, "s", **bounds))


def _replay(**bounds: Any) -> Call:
    return lambda store: collected(StateMachinePersister(store).replay(GOVERNOR, "s", **bounds))


def _recover(**arguments: Any) -> Call:
    return lambda store: StateMachinePersister(store).recover(GOVERNOR, **arguments)


def _clean_up(keep: Any) -> Call:
    return lambda store: StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=keep)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(_save(expected=True), id="expected_true"),
        pytest.param(_save(expected=1.0), id="expected_broken"),
        pytest.param(_save(timestamp="2026-01-01"), id="timestamp_text"),
        pytest.param(_save(action=5), id="action_number"),
        pytest.param(_save(fence=1), id="fence_number"),
        pytest.param(_events(after="x"), id="after_text"),
        pytest.param(_events(after=1.5), id="after_broken"),
        pytest.param(_events(after=True), id="after_true"),
        pytest.param(_events(after=-1), id="after_below_0"),
        pytest.param(_replay(until="x"), id="until_text"),
        pytest.param(_replay(until=True), id="until_true"),
        pytest.param(_recover(concurrency=0), id="concurrency_0"),
        pytest.param(_recover(concurrency=None), id="concurrency_none"),
        pytest.param(_clean_up(5), id="keep_number"),
        pytest.param(_clean_up(timedelta(-1)), id="keep_below_0"),
    ],
)
async def test_a_calls_arguments_are_checked_when_they_are_given(memory_places: Places, call: Call):
    """An argument of another kind, or one that means nothing, is ``InvalidData``, and nothing was done."""
    async with memory_places.new().store() as store:
        await store.save_state(GOVERNOR, "s", {"n": 1}, METADATA)
        with pytest.raises(InvalidData):
            await call(store)
        assert (await store.get_state(GOVERNOR, "s")).version == 1
