"""The commands about locks, run as users run them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from tai_state import LockLost, open_store
from tai_state.cli import locking
from tai_state.engines.memory import MemoryEngine
from tai_state.testing import ManualClock

from ..support.program import Inside, Program

if TYPE_CHECKING:
    from pathlib import Path

STORE = "sqlite:///locks.db"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program in a folder with a store without locks."""

    async def make() -> None:
        async with open_store(f"sqlite:///{tmp_path}/locks.db"):
            pass

    anyio.run(make)
    return Program(tmp_path)


def test_without_locks(program: Program):
    """There is nothing to list, and nothing to take away; without a store, there is an error."""
    listed = program("locks", "--store", STORE)
    assert (listed.code, listed.out, listed.err) == (0, "", "no locks\n")
    assert program("locks", "--store", STORE, "--json").json() == []
    for yes in ([], ["--yes"]):  # it looks before it asks
        error = program("unlock", "nightly", *yes, "--store", STORE, "--json").error(1)
        assert (error["type"], error["path"]) == ("LockNotFound", "locks/nightly")
    unlocked = program("unlock", "nightly", "--yes", "--store", STORE)
    assert (unlocked.code, unlocked.out, "tai-state locks" in unlocked.err) == (1, "", True)
    assert program("locks", "--store", "sqlite:///none.db").code == 1


def test_a_lock_is_listed_and_taken_away(program: Program):
    """While it is held it is shown; taking it away asks first, and its holder finds out."""

    async def work() -> None:
        async with open_store(f"sqlite:///{program.folder}/locks.db") as store:
            lease = await store.locks.acquire_lock("nightly", ttl_seconds=60.0, holder="worker 7")
            [found] = program("locks", "--store", STORE, "--json").json()
            assert list(found) == [
                *("resource", "holder", "fence", "acquired_at", "last_sign_at", "ttl", "remaining", "expired")
            ]
            assert (found["resource"], found["holder"], found["fence"]) == ("nightly", "worker 7", lease.fence)
            assert program("unlock", "nightly", "--store", STORE).code == 2
            await store.locks.renew_lock(lease)
            [renewed] = program("locks", "--store", STORE, "--json").json()
            assert renewed["last_sign_at"] > found["last_sign_at"] == renewed["acquired_at"]
            done = program("unlock", "nightly", "--yes", "--store", STORE)
            assert (done.code, done.out) == (0, "nightly: taken away from worker 7\n")
            with pytest.raises(LockLost):
                await store.locks.renew_lock(lease)

    anyio.run(work)
    assert program("locks", "--store", STORE, "--json").json() == []


def test_expiry_is_told_only_where_it_is_known(program: Program):
    """On SQLite one look shows nothing of it and what shows it is said; by a shared clock it is told."""

    async def hold() -> None:
        async with open_store(f"sqlite:///{program.folder}/locks.db") as store:
            await store.locks.acquire_lock("nightly", ttl_seconds=60.0, holder="gone")

    anyio.run(hold)
    [found] = program("locks", "--store", STORE, "--json").json()
    assert (found["ttl"], found["remaining"], found["expired"]) == (60.0, None, None)
    listed = program("locks", "--store", STORE)
    assert listed.out.splitlines()[1].endswith("  60.0  unknown    unknown")
    assert "do not share a clock" in listed.err
    assert "--cleanup" not in listed.err
    cleaned = program("locks", "--cleanup", "--store", STORE)
    assert (cleaned.code, cleaned.out) == (0, listed.out)
    assert "`tai-state unlock RESOURCE` removes such a lock" in cleaned.err


def test_expiry_by_a_shared_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Where all users share a clock, it says what is left of a lease, and then that it is over."""
    clock = ManualClock()
    engine = MemoryEngine(clock)
    monkeypatch.setattr(locking, "open_to_look", lambda *_: open_store(engine))
    inside = Inside(tmp_path, monkeypatch, capsys)

    async def hold() -> None:
        async with open_store(engine) as store:
            await store.locks.acquire_lock("nightly", ttl_seconds=3.3, holder="ana")

    anyio.run(hold)
    clock.advance_us(1_100_000)
    [found] = inside("locks", "--json").json()
    assert (found["remaining"], found["expired"]) == (2.2, False)
    assert len(inside("locks", "--cleanup", "--json").json()) == 1
    clock.advance_us(3_000_000)
    [found] = inside("locks", "--json").json()
    assert (found["remaining"], found["expired"]) == (0.0, True)
    assert inside("locks").err == ""
    assert inside("locks", "--cleanup", "--json").json() == []
