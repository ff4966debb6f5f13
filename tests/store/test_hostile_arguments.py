"""Arguments that mean nothing are refused: expectations, times, versions, metadata, actions, fields."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from tai_state import ChangeMetadata, NewEvent, StateSnapshot, StateStore, UnindexedField, open_store

from ..support.refusals import NOW, SECRET, persister_of, refused, unsaved
from ..support.stores import GOVERNOR, METADATA, Places, collected

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """What is refused is refused before anything that knows of event loops."""
    return "asyncio"


@pytest.mark.parametrize("expected", [-1, 10**12, 1.0, "1", True, None, [], METADATA, {"version": 1}], ids=repr)
async def test_expectations_that_are_none(places: Places, expected: Any) -> None:
    """What a writer expects is a version, a snapshot or one of the named expectations."""
    errors = await refused(
        places.new(),
        lambda store: store.save_state(GOVERNOR, "s", {}, METADATA, expected=expected),
        lambda store: store.update_state(GOVERNOR, "s", {}, METADATA, expected=expected),
        lambda store: store.delete_state(GOVERNOR, "s", METADATA, expected=expected),
        lambda store: store.log_event(GOVERNOR, "s", "noted", METADATA, expected=expected),
        lambda store: persister_of(store).record(GOVERNOR, "s", [NewEvent("add", 1)], METADATA, expected=expected),
    )
    for error in errors:
        assert "expected must be" in str(error)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(datetime(2026, 3, 1), id="naive"),  # noqa: DTZ001
        pytest.param(datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), id="before_all_time"),
        pytest.param(datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), id="after_all_time"),
        pytest.param("2026-03-01T00:00:00Z", id="text"),
        pytest.param(1_700_000_000, id="number"),
        pytest.param(date(2026, 3, 1), id="date"),
    ],
)
async def test_times_that_are_none(places: Places, moment: Any) -> None:
    """A time without an offset could be any moment of a day, and one beyond the calendar is none."""
    errors = await refused(
        places.new(),
        lambda store: store.save_state(GOVERNOR, "new", {}, METADATA, timestamp=moment),
        lambda store: store.log_event(GOVERNOR, "s", "noted", METADATA, timestamp=moment),
        lambda store: collected(store.get_events_between(GOVERNOR, moment, NOW)),
        lambda store: collected(store.get_events_between(GOVERNOR, NOW, moment)),
        lambda store: persister_of(store).record(
            GOVERNOR, "s", [NewEvent("add", 1, timestamp=moment)], METADATA, expected=1
        ),
    )
    for error in errors:
        assert "time" in str(error)


@pytest.mark.parametrize("version", [0, -1, 1.0, "1", True, None, [], datetime(2026, 3, 1)], ids=repr)  # noqa: DTZ001
async def test_versions_that_are_none(places: Places, version: Any) -> None:
    """A version to travel to is 1 or more, or a time with an offset."""
    errors = await refused(
        places.new(),
        lambda store: store.get_state_at(GOVERNOR, "s", version),
        lambda store: store.state(GOVERNOR, "s").at(version),
        lambda store: persister_of(store).get_state_at(GOVERNOR, "s", version),
    )
    reason = "needs an offset" if isinstance(version, datetime) else "1 or more, or a time with an offset"
    for error in errors:
        assert reason in str(error)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        "ana",
        {"changed_by": "ana", "reason": "why"},
        ("ana", "why"),
        ChangeMetadata,
        ChangeMetadata(None, "why"),  # type: ignore[arg-type]
        ChangeMetadata(5, "why"),  # type: ignore[arg-type]
        ChangeMetadata("ana", b"why"),  # type: ignore[arg-type]
        ChangeMetadata("ana", ["why"]),  # type: ignore[arg-type]
        ChangeMetadata("ana\ud800", "why"),
        ChangeMetadata("ana", "\udfffwhy"),
        ChangeMetadata("ana", "why", [1]),  # type: ignore[arg-type]
        ChangeMetadata("ana", "why", "context"),  # type: ignore[arg-type]
        ChangeMetadata("ana", "why", {1: 2}),  # type: ignore[dict-item]
        ChangeMetadata("ana", "why", None),  # type: ignore[arg-type]
        ChangeMetadata("ana", "why", []),  # type: ignore[arg-type]
    ],
    ids=ascii,
)
async def test_metadata_that_is_none(places: Places, metadata: Any) -> None:
    """Metadata says who and why as text, and anything else as a JSON object."""
    errors = await refused(
        places.new(),
        lambda store: store.save_state(GOVERNOR, "new", {}, metadata),
        lambda store: store.delete_state(GOVERNOR, "s", metadata, expected=1),
        lambda store: store.log_event(GOVERNOR, "s", "noted", metadata),
        lambda store: persister_of(store).record(GOVERNOR, "s", [NewEvent("add", 1)], metadata, expected=1),
    )
    for error in errors:
        assert "metadata" in str(error)


@pytest.mark.parametrize("action", [None, 5, b"save", ["save"], "\ud800"], ids=ascii)
async def test_actions_that_are_none(places: Places, action: Any) -> None:
    """An action is text."""
    errors = await refused(
        places.new(),
        lambda store: store.save_state(GOVERNOR, "new", {}, METADATA, action=action),
        lambda store: store.log_event(GOVERNOR, "s", action, METADATA),
        lambda store: persister_of(store).record(GOVERNOR, "s", [NewEvent(action)], METADATA, expected=1),
    )
    for error in errors:
        assert "action" in str(error)


@pytest.mark.parametrize(
    "events",
    [[], None, ["add"], [METADATA], [NewEvent("add", 1), None], [NewEvent("add", 1, event_id="e")] * 2],
    ids=["none", "no_list", "text", "metadata", "one_missing", "one_id_twice"],
)
async def test_recordings_of_nothing(places: Places, events: Any) -> None:
    """What is recorded is at least one event, and no event id stands for two."""
    [error] = await refused(
        places.new(), lambda store: persister_of(store).record(GOVERNOR, "s", events, METADATA, expected=1)
    )
    assert "event" in str(error)


@pytest.mark.parametrize("snapshots", [(None, None), ("s", None), (None, {"n": 1})], ids=repr)
async def test_transitions_between_what_are_no_states(places: Places, snapshots: tuple[Any, Any]) -> None:
    """A transition leads from a snapshot, or from none, to a snapshot."""
    [error] = await refused(
        places.new(), lambda store: persister_of(store).log_transition(GOVERNOR, *snapshots, "moved", METADATA)
    )
    assert "StateSnapshot" in str(error)


async def test_a_transition_from_what_is_not_there(places: Places) -> None:
    """A transition from another state, or from data that does not stand, is refused, and quotes none of it."""

    async def from_another(store: StateStore) -> Any:
        other = StateSnapshot.unsaved(GOVERNOR, "other", {"a": SECRET})
        return await persister_of(store).log_transition(GOVERNOR, other, unsaved(GOVERNOR, "s"), "moved", METADATA)

    async def from_a_dream(store: StateStore) -> Any:
        before = (await store.get_state(GOVERNOR, "s")).with_data({"a": SECRET})
        return await persister_of(store).log_transition(GOVERNOR, before, before, "moved", METADATA)

    await refused(places.new(), from_another, from_a_dream)


@pytest.mark.parametrize("field", ["nothing", "", "n.m", "'; --", "\x00", 5, None])
async def test_fields_that_are_not_indexed(places: Places, field: Any) -> None:
    """A query names fields that the store was opened with."""
    call = lambda store: collected(store.find_states(GOVERNOR, {field: 1}))  # noqa: E731
    await refused(places.new(), call, kind=UnindexedField)


@pytest.mark.parametrize(("schema", "upcasters"), [(2, {}), (1, {1: None}), (3, {1: None})])
def test_upcasters_that_do_not_fit(schema: int, upcasters: dict[int, Any]) -> None:
    """Each schema before the present one has exactly one step."""
    with pytest.raises(ValueError, match="upcast"):
        open_store("memory://", schema=schema, upcasters=upcasters)
