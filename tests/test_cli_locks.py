"""The commands about locks, run as users run them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from tai_state import LockLost, open_store

from .support.program import Program

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
    assert program("unlock", "nightly", "--yes", "--store", STORE, "--json").json() == {
        "resource": "nightly",
        "holder": None,
    }
    assert program("locks", "--store", "sqlite:///none.db").code == 1


def test_a_lock_is_listed_and_taken_away(program: Program):
    """While it is held it is shown; taking it away asks first, and its holder finds out."""

    async def work() -> None:
        async with open_store(f"sqlite:///{program.folder}/locks.db") as store:
            lease = await store.locks.acquire_lock("nightly", ttl=60.0, holder="worker 7")
            [found] = program("locks", "--store", STORE, "--json").json()
            assert list(found) == ["resource", "holder", "fence", "acquired_at", "ttl", "remaining", "expired"]
            assert (found["resource"], found["holder"], found["fence"]) == ("nightly", "worker 7", lease.fence)
            assert not found["expired"]
            assert "worker 7" in program("locks", "--store", STORE).out
            assert program("unlock", "nightly", "--store", STORE).code == 2
            await store.locks.extend_lock(lease)
            done = program("unlock", "nightly", "--yes", "--store", STORE)
            assert (done.code, done.out) == (0, "nightly: taken away from worker 7\n")
            with pytest.raises(LockLost):
                await store.locks.extend_lock(lease)

    anyio.run(work)
    assert program("locks", "--store", STORE, "--json").json() == []
