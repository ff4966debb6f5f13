"""Cleaning up after locks."""

from __future__ import annotations

import pytest

from tai_state import StateStore
from tai_state.engines.api import Document
from tai_state.locks.records import LockInfo
from tai_state.locks.sighting import Sightings
from tai_state.streams.layout import Layout

from ..support.locks import TTL, Time, expire, managed, paths
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


def test_sightings_are_bounded(memory_places: Places, monkeypatch: pytest.MonkeyPatch):
    """What is remembered of documents seen standing still has a bound."""
    monkeypatch.setattr("tai_state.locks.sighting.SIGHTINGS_MAX", 3)
    sightings = Sightings(memory_places.new().engine(), Layout(), lambda: 0.0)
    for n in range(9):
        sightings._sighted(Document("locks", str(n), b"{}", 1, 0), 0.0, 0.0)
    assert len(sightings._sightings) == 3
