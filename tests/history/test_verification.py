"""Verification: every field and every document counts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tai_state import (
    ANY,
    ConsistencyReport,
    NewEvent,
    StateMachinePersister,
    StateStore,
    Transaction,
    TransactionManager,
)
from tai_state.engines.api import ANYTHING, Delete, Put

from ..support.histories import ALICE, event_path, snapshot_path
from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, Place, fields_at

pytestmark = pytest.mark.anyio


def changed(name: str, value: Any) -> list[Any]:
    """Other values of a field, each of the right type."""
    if isinstance(value, dict):
        result: list[Any] = [{**value, key: other} for key, inner in value.items() for other in changed(key, inner)]
        return [*result, {**value, "extra": 1}] if name in ("data", "causality") else result
    if isinstance(value, list):
        return [value[:-1], [*value, 7]]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    if name in ("timestamp", "as_of", "kept_as_of"):
        return ["2001-02-03T04:05:06.000007Z", "2099-02-03T04:05:06.000007Z"]
    if name in ("to_state", "state"):
        return ['{"n":1000}']
    if name in ("digest", "previous", "state_hash", "content"):
        return [value[:-1] + ("0" if value[-1] != "0" else "1"), value.upper(), f" {value}"]
    if name in ("payload", "context"):
        return ['{"other":1}']
    assert isinstance(value, str)
    return [value + "x", ""]


async def _verify(store: StateStore) -> ConsistencyReport:
    return await StateMachinePersister(store, REDUCERS).validate_consistency()


DOCUMENTS = {
    "event": event_path(2),
    "first event": event_path(1),
    "last event": event_path(5),
    "payload event": event_path(2, "bob"),
    "deletion": event_path(2, "carol"),
    "state": ALICE,
    "folded state": "governors/bank/states/bob",
    "tombstone": "governors/bank/states/carol",
    "snapshot": snapshot_path(3),
    "folded snapshot": snapshot_path(3, "bob"),
    "marker": "governors/bank/ids/a1",
    "marker of an event that carries no state": "governors/bank/ids/logged",
}

ABSENT_BY_DEFAULT: dict[str, dict[str, Any]] = {
    "state": {"deleted": True, "floor": 3},
    "folded state": {"deleted": True, "floor": 2},
    "event": {"payload": "1"},
    "payload event": {"to_state": '{"n":2}'},
    "deletion": {"payload": "1"},
}
"""Fields that the document does not have, with values that it then must not get."""

HARMLESS = {("state", "floor"), ("folded state", "floor")}
"""A floor that allows events to be missing that are not: nothing is wrong with what is there. (Nor is it with an event
without the content of its id: its marker has it.)"""


@pytest.mark.parametrize("kind", DOCUMENTS)
async def test_every_field_counts(written: StateStore, kind: str):
    """Whichever field of a document is changed, verification names the document; and it was clean before."""
    assert (await _verify(written)).consistent
    path = DOCUMENTS[kind]
    before = await fields_at(written.core.engine, path)
    edits = [
        (name, other)
        for name, value in before.items()
        if value is not None
        for other in changed(name, value)
        if other != value
    ]
    edits += list(ABSENT_BY_DEFAULT.get(kind, {}).items())
    edits += [(name, None) for name, value in before.items() if value is not None and name != "data"]
    missed = []
    for name, other in edits:
        await written.core.engine.commit([Put(path, {**before, name: other})])
        found = {finding.path for finding in (await _verify(written)).findings}
        # A list of kept snapshots that is too short shows as snapshots that nobody lists.
        named = found & ({path} | {each for each in found if name == "kept" and "/snapshots/" in each})
        if not named and (kind, name) not in HARMLESS and (name, other) != ("content", None):
            missed.append((name, other, found))
    await written.core.engine.commit([Put(path, before)])
    assert not missed
    assert (await _verify(written)).consistent


@pytest.mark.parametrize("kind", ["state", "folded state", "tombstone"])
async def test_recovery_mends_every_field_of_a_state(written: StateStore, kind: str):
    """Whichever field of a state is changed, recovery brings back the document as it was."""
    path = DOCUMENTS[kind]
    before = await fields_at(written.core.engine, path)
    persister = StateMachinePersister(written, REDUCERS)
    for name, value in before.items():
        others = [None] if value is None else [*changed(name, value), None]
        for other in others:
            if other == value:
                continue
            await written.core.engine.commit([Put(path, {**before, name: other})])
            report = await persister.recover()
            assert report.rebuilt == (path,), (name, other, report)
            assert await fields_at(written.core.engine, path) == before, (name, other)
    assert (await _verify(written)).consistent


@pytest.mark.parametrize("kind", DOCUMENTS)
async def test_a_document_that_is_gone_is_missed(written: StateStore, kind: str):
    """Whichever document is removed, verification names it, a marker included: its event says that there was one."""
    path = DOCUMENTS[kind]
    await written.core.engine.commit([Delete(path, ANYTHING)])
    found = {finding.path for finding in (await _verify(written)).findings}
    assert path in found


async def test_documents_in_each_others_places(written: StateStore):
    """Events swapped within a stream or between two, and snapshots and states likewise, are found."""
    pairs = [
        (event_path(2), event_path(3)),
        (event_path(2), event_path(2, "bob")),
        (event_path(1), event_path(1, "carol")),
        (snapshot_path(3), snapshot_path(3, "bob")),
        (ALICE, "governors/bank/states/bob"),
        ("governors/bank/ids/a1", "governors/bank/ids/a2"),
    ]
    for one, other in pairs:
        first, second = await fields_at(written.core.engine, one), await fields_at(written.core.engine, other)
        await written.core.engine.commit([Put(one, second), Put(other, first)])
        found = {finding.path for finding in (await _verify(written)).findings}
        assert {one, other} <= found, (one, other, found)
        await written.core.engine.commit([Put(one, first), Put(other, second)])
    assert (await _verify(written)).consistent


async def test_strangers_are_found(written: StateStore):
    """Documents that no stream explains are named: an event too many, a snapshot too many, a place that is none."""
    event, snapshot = (
        await fields_at(written.core.engine, event_path(5)),
        await fields_at(written.core.engine, snapshot_path(3)),
    )
    strangers = {
        event_path(6): {**event, "version": 6, "previous": event["digest"]},
        "governors/bank/events/alice": event,
        "governors/bank/events/nobody~000000000001": {**event, "state_id": "nobody"},
        snapshot_path(5): {**snapshot, "version": 5},
        snapshot_path(1, "nobody"): snapshot,
        "governors/bank/ids/unheard": {"state_id": "alice", "version": 99, "content": "0" * 64},
        "governors/bank/states/nobody": await fields_at(written.core.engine, ALICE),
    }
    for path, fields in strangers.items():
        await written.core.engine.commit([Put(path, fields)])
        report = await _verify(written)
        assert not report.consistent, path
        await written.core.engine.commit([Delete(path, ANYTHING)])
    assert (await _verify(written)).consistent


async def test_streams_that_need_a_reducer_are_unchecked(written: StateStore):
    """Without the application's reducers a store is never called consistent: the report counts what is unchecked."""
    report = await StateMachinePersister(written).validate_consistency()
    assert (report.consistent, report.unchecked, report.findings) == (False, 1, ())
    assert (report.states, report.events) == (3, 12)
    assert (await StateMachinePersister(written).validate_consistency()) == report


async def test_whatever_has_an_id_of_the_callers(place: Place):
    """A store is consistent after any change with an id, also one whose state a function has made."""
    then = datetime(2024, 2, 3, tzinfo=UTC)
    async with place.store() as store:
        state = store.state(GOVERNOR, "s")

        async def function(tx: Transaction) -> None:
            tx.put(state, {"n": 7}, event_id="put")
            tx.log(state, "seen", event_id="logged in it")
            tx.record(store.state(GOVERNOR, "t"), [NewEvent("add", 1, "recorded in it"), NewEvent("add", 2)])

        await state.update(lambda data: {"n": data["n"] + 1}, METADATA, initial={"n": 0}, event_id="made")
        await state.update(lambda _: {"n": 2}, METADATA, event_id="updated", timestamp=then, payload=1)
        await state.log("seen", METADATA, event_id="logged")
        await state.save({"n": 3}, METADATA, expected=ANY, event_id="saved", timestamp=then)
        await StateMachinePersister(store, REDUCERS).record(
            GOVERNOR, "s", [NewEvent("add", 3, "added")], METADATA, expected=ANY
        )
        await TransactionManager(store, REDUCERS).transact(function, METADATA)
        await state.delete(METADATA, expected=ANY, event_id="deleted")
        assert (await _verify(store)).findings == ()
