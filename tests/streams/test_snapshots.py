"""Kept snapshots: when they are kept, how many stay, and that one that cannot be used is never served."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tai_state import (
    ANY,
    AnyOf,
    DocumentTooLarge,
    EveryBytes,
    EveryEvents,
    EveryInterval,
    Never,
    NewEvent,
    OnStates,
    SinceKept,
    SnapshotPolicy,
    StateMachinePersister,
    StateNotFound,
    StateStore,
    Upcast,
    open_store,
)
from tai_state.engines.api import ANYTHING, Delete, Put
from tai_state.streams.layout import Layout
from tai_state.streams.planning import Author, Composition, Draft, plan
from tai_state.streams.records import EMPTY
from tai_state.streams.upcasting import Upcasting
from tai_state.values.digests import state_hash

from ..support.operations import REDUCERS
from ..support.stores import GOVERNOR, METADATA, Place, collected, dump, edit, fields_at

pytestmark = pytest.mark.anyio


def snapshot_path(version: int) -> str:
    """The path of a kept snapshot."""
    return f"governors/bank/snapshots/alice~{version:012d}"


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """An open store that keeps a snapshot every three events."""
    async with place.store(snapshots=EveryEvents(3, keep=9)) as store:
        yield store


async def add(store: StateStore, count: int) -> None:
    """Count up, one payload-carrying event each, so that every version depends on the one before."""
    persister = StateMachinePersister(store, REDUCERS)
    for _ in range(count):
        await persister.record(GOVERNOR, "alice", [NewEvent("add", 1)], METADATA, expected=ANY)


# Policies ------------------------------------------------------------------------------------------------------


async def kept_by(place: Place, policy: SnapshotPolicy, changes: list[tuple[dict[str, Any], datetime]]) -> list[int]:
    """After which of these changes a snapshot was kept, as the policy alone decides."""
    async with place.store(snapshots=policy) as store:
        kept: list[int] = []
        for version, (data, moment) in enumerate(changes):
            await store.save_state(GOVERNOR, "alice", data, METADATA, expected=version, timestamp=moment)
            if (await store.list_snapshots(GOVERNOR, "alice"))[-1:] == [version + 1]:
                kept.append(version + 1)
        report = await StateMachinePersister(store).validate_consistency(GOVERNOR)
        assert report.consistent, report.findings
        return kept


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOURS = [({"s": "x" * hour}, NOON + timedelta(hours=hour)) for hour in range(8)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (EveryEvents(1), [1, 2, 3, 4, 5, 6, 7, 8]),
        (EveryEvents(3), [3, 6]),
        (EveryEvents(), []),
        (EveryBytes(1), [1, 2, 3, 4, 5, 6, 7, 8]),
        (EveryBytes(30), [4, 7]),  # the texts take 8 bytes and one more each time: 8+9+10+11, 12+13+14
        (EveryInterval(timedelta(hours=2)), [3, 5, 7]),
        (EveryInterval(timedelta(days=1)), []),
        (OnStates("s", ("", "xxx")), [1, 4]),
        (OnStates("missing", (None,)), []),
        (AnyOf(EveryEvents(5), OnStates("s", ("x",))), [2, 7]),
        (Never(), []),
    ],
    ids=repr,
)
async def test_when_a_snapshot_is_kept(place: Place, policy: SnapshotPolicy, expected: list[int]):
    """Each policy keeps snapshots exactly when it says."""
    assert await kept_by(place, policy, HOURS) == expected


async def test_age_goes_by_the_events_own_times(place: Place):
    """Events that come out of order do not turn time back."""
    moments = [0, 5, 1, 9, 11]
    changes = [({}, NOON + timedelta(hours=hour)) for hour in moments]
    assert await kept_by(place, EveryInterval(timedelta(hours=6)), changes) == [4]


async def test_several_events_of_one_commit(place: Place):
    """A snapshot that falls due within a batch is of the state after the batch."""
    async with place.store(snapshots=EveryEvents(2)) as store:
        persister = StateMachinePersister(store, REDUCERS)
        await persister.record(GOVERNOR, "alice", [NewEvent("add", 1)] * 5, METADATA, expected=ANY)
        assert await store.list_snapshots(GOVERNOR, "alice") == [5]
        found = await store.load_snapshot(GOVERNOR, "alice")
        assert found is not None
        assert (found.version, found.data) == (5, {"n": 5})


async def test_a_deletion_can_be_kept(place: Place):
    """A snapshot of a deleted state is one without data."""
    async with place.store(snapshots=EveryEvents(2)) as store:
        await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA)
        gone = await store.delete_state(GOVERNOR, "alice", METADATA, expected=1)
        assert await store.load_snapshot(GOVERNOR, "alice") == gone
        await add(store, 3)
        persister = StateMachinePersister(store, REDUCERS)
        assert [event.to_state for event in await collected(persister.replay(GOVERNOR, "alice", after=2))] == [
            {"n": 1},
            {"n": 2},
            {"n": 3},
        ]


async def test_one_that_does_not_fit_is_left_out(place: Place, caplog: pytest.LogCaptureFixture):
    """A change is made, and warned of, where the snapshot that it makes due is too large; asking for that one fails."""
    async with place.store(snapshots=EveryEvents(3)) as store:
        persister = StateMachinePersister(store, {"quote": lambda _, event: {"text": '"' * event.payload}})
        for count in (1, 400_000, 400_000):  # 1.6 MB in a snapshot, where it is JSON in a text
            await persister.record(GOVERNOR, "alice", [NewEvent("quote", count)], METADATA, expected=ANY)
        assert (await store.log_event(GOVERNOR, "alice", "heartbeat", METADATA)).version == 4
        assert await store.list_snapshots(GOVERNOR, "alice") == []
        left_out = [record for record in caplog.records if "not kept, because it is too large" in record.getMessage()]
        assert [getattr(record, "path", "") for record in left_out] == [snapshot_path(3), snapshot_path(4)]
        with pytest.raises(DocumentTooLarge):
            await store.create_snapshot(GOVERNOR, "alice")
        await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA, expected=4)
        assert await store.list_snapshots(GOVERNOR, "alice") == [5]
        assert (await persister.validate_consistency(GOVERNOR)).consistent


async def test_a_change_that_does_not_fit_itself(place: Place, caplog: pytest.LogCaptureFixture):
    """It is refused, whether or not a snapshot was due with it."""
    async with place.store(snapshots=EveryEvents(1)) as store:
        with pytest.raises(DocumentTooLarge) as error:
            await store.save_state(GOVERNOR, "alice", {"text": "x" * 1_100_000}, METADATA)
        assert "/snapshots/" not in error.value.path
        assert "is not kept" not in caplog.text


def test_keeping_one_more_costs_the_same_for_each_that_is_kept():
    """Which snapshots are dropped is found without comparing all that are kept with one another."""
    compared = 0

    class Version(int):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return int(self) == other

        __hash__ = int.__hash__

    count = 1_000
    head = msgspec.structs.replace(EMPTY, version=count, revision=1, kept=tuple(map(Version, range(1, count + 1))))
    made = Draft(event_id="e", action="save", timestamp="2026-01-01T00:00:00Z", changed_by="a", reason="", context="{}")
    author = Author("store", 1, EveryEvents(1, keep=count))
    stream = Layout().stream(GOVERNOR, "s")
    planned = plan(stream, head, Composition((made,), {}), author, 1)
    assert Delete(stream.snapshot(1), ANYTHING) in planned.writes
    assert compared < 5 * count


@pytest.mark.parametrize("keep", [1, 2, 5])
async def test_retention(place: Place, keep: int):
    """As many snapshots stay as the policy says, and no document of the others."""
    async with place.store(snapshots=EveryEvents(2, keep=keep)) as store:
        await add(store, 13)
        kept = [2, 4, 6, 8, 10, 12][-keep:]
        assert await store.list_snapshots(GOVERNOR, "alice") == kept
        documents = [path for path in await dump(store.core.engine) if "/snapshots/" in path]
        assert documents == [snapshot_path(version) for version in kept]


class _Careless:
    """A policy that changes the data it is shown, also where it is nested."""

    keep = 2

    def due(self, since_kept: SinceKept) -> bool:
        shown: Any = since_kept.data
        shown["list"].append(1)
        del shown["n"]
        return True


@pytest.mark.parametrize("policy", [_Careless(), AnyOf(Never(), AnyOf(_Careless()))])
async def test_what_a_policy_does_to_its_data_is_not_stored(place: Place, policy: SnapshotPolicy):
    """The state and the snapshot are as the caller gave them."""
    async with place.store(snapshots=policy) as store:
        given = {"n": 1, "list": []}
        assert (await store.save_state(GOVERNOR, "alice", given, METADATA)).data == {"n": 1, "list": []}
        assert (await store.get_state(GOVERNOR, "alice")).data == {"n": 1, "list": []}
        kept = await store.load_snapshot(GOVERNOR, "alice")
        assert kept is not None
        assert kept.data == {"n": 1, "list": []}


async def test_a_smaller_retention_takes_effect(place: Place):
    """Opened with a policy that keeps fewer, the store drops the others with the next snapshot."""
    async with place.store(snapshots=EveryEvents(1, keep=6)) as store:
        await add(store, 6)
    async with place.store(snapshots=EveryEvents(1, keep=2)) as store:
        await add(store, 1)
        assert await store.list_snapshots(GOVERNOR, "alice") == [6, 7]
        assert (await StateMachinePersister(store, REDUCERS).validate_consistency(GOVERNOR)).consistent


@pytest.mark.parametrize(
    "make",
    [
        lambda: EveryEvents(0),
        lambda: EveryEvents(1, keep=0),
        lambda: EveryBytes(0),
        lambda: EveryBytes(1, keep=0),
        lambda: EveryInterval(timedelta(0)),
        lambda: EveryInterval(timedelta(1), keep=0),
        lambda: OnStates("s", (), keep=0),
        lambda: OnStates("s", "failed"),  # type: ignore[arg-type]
        lambda: Never(keep=0),
        AnyOf,
        lambda: AnyOf(Never(), keep=0),
    ],
)
def test_policies_that_make_no_sense(make: Any):
    """A policy that would never or always keep by mistake is refused where it is made."""
    with pytest.raises((ValueError, TypeError), match="must be"):
        make()


@pytest.mark.parametrize("nonsense", [5, 0, "always", EveryEvents])
def test_what_is_no_policy(nonsense: Any):
    """A store is not opened with something that is no policy: the first change would be too late to say so."""
    with pytest.raises(TypeError, match="must be a policy"):
        open_store("memory://", snapshots=nonsense)


# Asking for one ------------------------------------------------------------------------------------------------


async def test_create_snapshot(place: Place):
    """A snapshot asked for is of the present version, does not move it, and is kept once."""
    async with place.store(snapshots=Never(keep=2)) as store:
        with pytest.raises(StateNotFound):
            await store.create_snapshot(GOVERNOR, "alice")
        for _ in range(3):
            await add(store, 2)
            state = await store.get_state(GOVERNOR, "alice")
            assert await store.create_snapshot(GOVERNOR, "alice") == state
            again = await store.create_snapshot(GOVERNOR, "alice")
            assert (again.version, again.data, again.timestamp) == (state.version, state.data, state.timestamp)
            assert await store.get_state(GOVERNOR, "alice") == again
        assert await store.list_snapshots(GOVERNOR, "alice") == [4, 6]
        assert [event.version for event in await collected(store.get_events(GOVERNOR, "alice"))] == [1, 2, 3, 4, 5, 6]
        assert (await StateMachinePersister(store, REDUCERS).validate_consistency(GOVERNOR)).consistent


async def test_load_snapshot(store: StateStore):
    """Kept snapshots are loaded by version, the newest by default; what is not kept is None."""
    await add(store, 7)
    newest = await store.load_snapshot(GOVERNOR, "alice")
    assert newest == await StateMachinePersister(store, REDUCERS).get_state_at(GOVERNOR, "alice", 6)
    third = await store.load_snapshot(GOVERNOR, "alice", 3)
    assert third is not None
    assert (third.version, third.data) == (3, {"n": 3})
    assert await store.load_snapshot(GOVERNOR, "alice", 4) is None
    await store.save_state(GOVERNOR, "bob", {}, METADATA)
    assert await store.load_snapshot(GOVERNOR, "bob") is None
    for call in (store.load_snapshot, store.list_snapshots, store.create_snapshot):
        with pytest.raises(StateNotFound):
            await call(GOVERNOR, "nobody")


# Unusable ones -------------------------------------------------------------------------------------------------


async def _damage_text(store: StateStore) -> None:
    await edit(store.core.engine, snapshot_path(6), state='{"n":1000}')


async def _damage_both(store: StateStore) -> None:
    await edit(store.core.engine, snapshot_path(6), state='{"n":1000}', state_hash=state_hash('{"n":1000}'))


async def _damage_shape(store: StateStore) -> None:
    await store.core.engine.commit([Put(snapshot_path(6), {"nonsense": 1})])


async def _no_json(store: StateStore) -> None:
    await edit(store.core.engine, snapshot_path(6), state="{", state_hash=state_hash("{"))


async def _missing(store: StateStore) -> None:
    await store.core.engine.commit([Delete(snapshot_path(6), ANYTHING)])


async def _of_another_version(store: StateStore) -> None:
    await edit(store.core.engine, snapshot_path(6), version=3)


async def _of_another_state(store: StateStore) -> None:
    await edit(store.core.engine, snapshot_path(6), state_id="bob")


async def _of_an_unknown_schema(store: StateStore) -> None:
    await edit(store.core.engine, snapshot_path(6), schema=99)


UNUSABLE = [
    _damage_text,
    _damage_both,
    _damage_shape,
    _no_json,
    _missing,
    _of_another_version,
    _of_another_state,
    _of_an_unknown_schema,
]


@pytest.mark.parametrize("damage", UNUSABLE)
@pytest.mark.parametrize("older", [True, False], ids=["with an older one", "alone"])
async def test_an_unusable_snapshot_is_never_served(
    store: StateStore,
    caplog: pytest.LogCaptureFixture,
    damage: Any,
    older: bool,  # noqa: FBT001
):
    """Replay, time travel and recovery go round a snapshot that cannot be used, with a warning, to the same result."""
    persister = StateMachinePersister(store, REDUCERS)
    await add(store, 8)
    if not older:
        await store.core.engine.commit([Delete(snapshot_path(3), ANYTHING)])
        await edit(store.core.engine, "governors/bank/states/alice", kept=[6])
    before = await fields_at(store.core.engine, "governors/bank/states/alice")
    await damage(store)
    caplog.set_level(logging.WARNING, "tai_state")
    assert (await persister.get_state_at(GOVERNOR, "alice", 8)).data == {"n": 8}
    assert [event.to_state for event in await collected(persister.replay(GOVERNOR, "alice", after=6))] == [
        {"n": 7},
        {"n": 8},
    ]
    moment = (await store.get_state(GOVERNOR, "alice")).timestamp
    assert (await persister.get_state_at(GOVERNOR, "alice", moment)).data == {"n": 8}
    found = await store.load_snapshot(GOVERNOR, "alice")
    assert (found and found.data) == ({"n": 3} if older else None)
    assert {vars(record)["path"] for record in caplog.records} == {snapshot_path(6)}
    await store.core.engine.commit([Delete("governors/bank/states/alice", ANYTHING)])
    assert (await persister.recover(GOVERNOR)).rebuilt == ("governors/bank/states/alice",)
    after = await fields_at(store.core.engine, "governors/bank/states/alice")
    assert (after["data"], after["version"], after["digest"]) == ({"n": 8}, 8, before["digest"])


async def test_a_snapshot_ahead_of_the_log_is_skipped(store: StateStore, caplog: pytest.LogCaptureFixture):
    """A snapshot of a version that has no event is not believed, wherever it came from."""
    persister = StateMachinePersister(store, REDUCERS)
    await add(store, 4)
    fields = await fields_at(store.core.engine, snapshot_path(3))
    ahead = '{"n":99}'
    await store.core.engine.commit(
        [Put(snapshot_path(9), {**fields, "version": 9, "state": ahead, "state_hash": state_hash(ahead)})]
    )
    await edit(store.core.engine, "governors/bank/states/alice", kept=[3, 9])
    caplog.set_level(logging.WARNING, "tai_state")
    found = await store.load_snapshot(GOVERNOR, "alice")
    assert found is not None
    assert (found.version, found.data) == (3, {"n": 3})
    assert {vars(record)["path"] for record in caplog.records} == {snapshot_path(9)}
    assert (await persister.get_state_at(GOVERNOR, "alice", 4)).data == {"n": 4}
    assert not (await persister.validate_consistency(GOVERNOR)).consistent
    await persister.recover(GOVERNOR)
    assert (await store.get_state(GOVERNOR, "alice")).data == {"n": 4}
    assert (await store.save_state(GOVERNOR, "alice", {"n": 5}, METADATA, expected=4)).version == 5


async def test_a_snapshot_of_an_older_schema_is_used(place: Place):
    """A snapshot kept before the application's data changed shape is brought up to date like everything else."""
    async with place.store(snapshots=EveryEvents(3)) as store:
        await add(store, 4)
    steps = {1: Upcast(state=lambda state: {"count": state["n"]})}

    def count_up(state: dict[str, Any] | None, event: Any) -> dict[str, Any]:
        return {"count": (state or {"count": 0})["count"] + event.payload}

    async with place.store(snapshots=EveryEvents(3), upcasting=Upcasting(2, steps)) as store:
        found = await store.load_snapshot(GOVERNOR, "alice")
        assert found is not None
        assert found.data == {"count": 3}
        persister = StateMachinePersister(store, {"add": count_up})
        assert (await persister.get_state_at(GOVERNOR, "alice", 3)).data == {"count": 3}
