"""Cleaning up after locks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tai_state import StateStore
from tai_state.engines.api import Document, Put, Scan
from tai_state.locks.marks import MARKS_MAX, Marks
from tai_state.locks.records import LockInfo
from tai_state.locks.sighting import Sightings
from tai_state.streams.layout import Layout

from ..support.locks import OVER, TTL, Time, expire, managed, paths
from ..support.stores import Places, collected

pytestmark = pytest.mark.anyio


async def test_cleanup_removes_what_is_dead(store: StateStore, other: StateStore, time: Time):
    """Expired locks go, with their renewals; those that live by their renewal alone stay, and what lies about goes."""
    locks, theirs = managed(store, time), managed(other, time)
    leases = {
        name: await locks.acquire_lock(name, ttl_seconds=TTL) for name in ("dead", "renewed", "living", "given back")
    }
    for name in ("renewed", "living", "given back"):
        await locks.renew_lock(leases[name])
    await locks.release_lock(leases["given back"])
    await collected(theirs.list_locks())
    time.advance(TTL / 2)
    await locks.renew_lock(leases["living"])
    await collected(theirs.list_locks())
    time.advance(TTL * 0.7)
    infos = {info.resource: info for info in await collected(theirs.list_locks())}
    assert {name: info.is_expired for name, info in infos.items()} == {"dead": True, "living": False, "renewed": True}
    assert await theirs.cleanup_expired_locks() == 2
    assert await paths(store.core.engine) == ["locks/living", "lockbeats/living"]
    assert await theirs.cleanup_expired_locks() == 0
    assert isinstance(infos["living"], LockInfo)


async def test_many_locks(store: StateStore, time: Time):
    """Listing and cleaning up go through pages."""
    locks = managed(store, time)
    async with locks.lock_all([f"{n:03}" for n in range(230)], ttl_seconds=TTL):
        infos = await collected(locks.list_locks())
        assert [info.resource for info in infos] == [f"{n:03}" for n in range(230)]
    await locks.acquire_lock("x", ttl_seconds=TTL)
    await expire(time, locks)
    assert await locks.cleanup_expired_locks() == 1


async def test_what_lives_is_left_though_its_sighting_is_forgotten(
    store: StateStore, other: StateStore, time: Time, monkeypatch: pytest.MonkeyPatch
):
    """Of more locks than are remembered, those that were renewed or acquired meanwhile stay, and the others go."""
    monkeypatch.setattr("tai_state.locks.sighting.SIGHTINGS_MAX", 3)
    locks, theirs = managed(store, time), managed(other, time)
    leases = {name: await locks.acquire_lock(name, ttl_seconds=TTL) for name in "abcdefgh"}
    await theirs.cleanup_expired_locks()
    time.advance(TTL * 0.7)
    for name in "bg":
        await locks.renew_lock(leases[name])
    await locks.acquire_lock("late", ttl_seconds=TTL)
    await theirs.cleanup_expired_locks()
    time.advance(TTL * 0.7)
    assert await theirs.cleanup_expired_locks() == 6
    assert [each for each in await paths(store.core.engine) if "beats" not in each] == [
        "locks/b",
        "locks/g",
        "locks/late",
    ]


async def test_a_damaged_document_does_not_stop_a_cleanup(
    store: StateStore, time: Time, caplog: pytest.LogCaptureFixture
):
    """It is named in the log, whichever it is, and what else nobody needs is removed; a damaged lock stays."""
    locks = managed(store, time)
    damaged = ["locks/b", "locks/c/waiters/x", "lockbreaks/y"]
    await store.core.engine.commit([Put(path, {"ttl": "long"}) for path in damaged])
    for name in ("a", "z"):
        await locks.acquire_lock(name, ttl_seconds=TTL)
    await locks.cleanup_expired_locks()
    assert {each.__dict__["path"] for each in caplog.records} == set(damaged)
    time.advance(OVER)
    assert await locks.cleanup_expired_locks() == 2
    assert await paths(store.core.engine, "c") == ["locks/b"]
    assert len(await collected(store.core.engine.scan(Scan("lockbreaks")))) == 1, "it is left for a day"
    time.advance(100_000)
    await locks.cleanup_expired_locks()
    assert await collected(store.core.engine.scan(Scan("lockbreaks"))) == []


def test_sightings_are_bounded(memory_places: Places, monkeypatch: pytest.MonkeyPatch):
    """What is remembered of documents seen standing still has a bound."""
    monkeypatch.setattr("tai_state.locks.sighting.SIGHTINGS_MAX", 3)
    sightings = Sightings(memory_places.new().engine(), Layout(), lambda: 0.0)
    for n in range(9):
        sightings._sighted(Document("locks", str(n), b"{}", 1, 0), 0.0, 0.0)
    assert len(sightings._sightings) == 3


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 3), st.booleans()), max_size=300))
def test_no_mark_says_that_a_document_stood_still_for_longer_than_it_did(steps: list[tuple[int, float, bool]]):
    """Whatever was noted and dropped again, a revision counts from when it had been reached, or later."""
    marks, revision, time = Marks(), 0, 0.0
    reached: dict[int, float] = {}
    for more, seconds, is_noted in steps:
        time += seconds
        reached |= dict.fromkeys(range(revision + 1, revision + more + 1), time)
        revision += more
        if is_noted:
            marks.note(revision, time)
    assert all(then <= marks.since(each, time) <= time for each, then in reached.items())


def test_marks_are_few_and_tell_of_all_ages():
    """However many are noted, few are kept; by those, a document counts for at least half as long as it stood still."""
    marks = Marks()
    for second in range(100_000):
        marks.note(second, float(second))
    assert len(marks._times) <= MARKS_MAX
    for age in (5, 50, 500, 5_000, 50_000):
        assert 99_999 - marks.since(99_999 - age, 99_999.0) >= age / 2
