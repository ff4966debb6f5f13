"""A damaged row whose name leads no call to it holds nobody up, and the advice about it leads out of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import apsw
import pytest

from tai_state import CorruptDocument
from tai_state.engines.api import Damage, Document, Put, Scan
from tai_state.engines.paging import Paged
from tai_state.locks.locking import LockManager

from ..support.locks import Time, asleep, managed, paths, until
from ..support.program import Inside
from ..support.stores import MEMORY, SQLITE, CountingEngine, Place, collected

pytestmark = pytest.mark.anyio

NAMES = {"no text": b"\xff", "a slash in it": b"/"}
EACH = pytest.mark.parametrize("wrong", NAMES.values(), ids=[each.replace(" ", "_") for each in NAMES])
WAITER = {"holder": "ben", "holds": [], "wants": ["r"], "ttl": 15.0, "ticket": 0, "n": 1}

ROWS = {
    "a lock": "locks/a-z",
    "a renewal": "lockbeats/a-z",
    "a note": "lockbreaks/a-z",
    "a waiter": "locks/r/waiters/999999999999-z",
}

FEW = 60
"""More calls than two waiters make, each of which gets the lock at once."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """On SQLite: one flipped bit in the file of another engine does not leave a row with another name."""
    return Place(SQLITE, tmp_path)


def _damage(place: Place, wrong: bytes) -> int:
    """Put the wrong byte in the place of the "-" in the names that end in "-z"; returns how many there were."""
    with closing(apsw.Connection(str(place.folder / "store.db"))) as connection:
        names = [name for (name,) in connection.execute("SELECT CAST(id AS BLOB) FROM documents WHERE id LIKE '%-z'")]
        for name in names:
            row = (name.replace(b"-", wrong), name)
            connection.execute("UPDATE documents SET id = CAST(? AS TEXT) WHERE CAST(id AS BLOB) = ?", row)
        return len(names)


@EACH
@pytest.mark.parametrize("path", ROWS.values(), ids=[each.replace(" ", "_") for each in ROWS])
def test_the_advice_of_verify_leads_out_of_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: Place,
    path: str,
    wrong: bytes,
):
    """Whoever follows it has a store without a finding, and without the row; what is sound is left."""

    async def fill() -> None:
        async with place.store() as store:
            await store.locks.acquire_lock("r", ttl_seconds=60)
            await store.core.engine.commit([Put(path, WAITER)])

    async def left() -> list[str]:
        async with place.store() as store:
            return await paths(store.core.engine, "r")

    anyio.run(fill)
    assert _damage(place, wrong) == 1
    inside = Inside(tmp_path, monkeypatch, capsys)
    address = f"sqlite:///{place.folder}/store.db"
    found = inside("verify", "--store", address)
    assert (found.code, found.out.count("corrupt")) == (4, 1)
    commands = re.findall(r"`tai-state ([^`]+)`", found.out)
    assert commands
    for command in commands:
        assert inside(*shlex.split(command), "--store", address).code == 0
    assert inside("verify", "--store", address).code == 0
    assert anyio.run(left) == ["locks/r"]


@EACH
async def test_a_lock_of_such_a_name_is_named_after_the_others(place: Place, wrong: bytes):
    """It belongs to no resource, so the advice is not to unlock one."""
    async with place.store() as store:
        await store.locks.acquire_lock("a-z")
        await store.locks.acquire_lock("b")
    _damage(place, wrong)
    async with place.store() as store:
        listed = store.locks.list_locks()
        assert (await anext(listed)).resource == "b"
        with pytest.raises(CorruptDocument, match="belongs to no resource: run `tai-state locks --cleanup`"):
            await anext(listed)
        await store.locks.cleanup_expired_locks()
        assert [each.resource for each in await collected(store.locks.list_locks())] == ["b"]


async def _two_take_turns(locks: LockManager, time: Time) -> None:
    """Two wait for a lock that is held, and get it in the order in which they came."""
    lease = await locks.acquire_lock("r", ttl_seconds=60)
    done: list[str] = []

    async def wait(name: str) -> None:
        async with locks.lock("r", ttl_seconds=60):
            done.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "first")
        await until(lambda: len(asleep(locks)) == 1)
        tasks.start_soon(wait, "second")
        await until(lambda: len(asleep(locks)) == 2)
        await locks.release_lock(lease)
        await time.pass_until(lambda: len(done) == 2)
    assert done == ["first", "second"]


@EACH
@pytest.mark.parametrize("count", [1, 7])
async def test_such_waiters_are_passed_over_and_removed(place: Place, wrong: bytes, count: int):
    """Those who come later get their turns in order, however many are ahead."""
    async with place.store() as store:
        await store.core.engine.commit([Put(f"locks/r/waiters/{10**12 - 1 - n}-z", WAITER) for n in range(count)])
    assert _damage(place, wrong) == count
    async with place.store() as store:
        counting = CountingEngine(store.core.engine)
        time = Time(place.clock)
        await _two_take_turns(managed(store, time, counting), time)
        assert counting.counts.calls < FEW + 2 * count
        assert await paths(store.core.engine, "r") == []


async def test_the_next_in_line_goes_behind_all_whose_names_are_sound(tmp_path: Path):
    """Also if the newest place has a name without a number, and another process comes next."""
    place = Place(MEMORY, tmp_path)
    async with place.store() as store, place.store() as other, anyio.create_task_group() as tasks:
        time = Time(place.clock)
        locks, theirs = managed(store, time), managed(other, time)
        await locks.acquire_lock("r", ttl_seconds=600)
        for manager in (locks, locks, theirs):
            before = len(asleep(locks, theirs))
            tasks.start_soon(partial(manager.acquire_lock, "r", ttl_seconds=600))
            await until(lambda before=before: len(asleep(locks, theirs)) == before + 1)
            await store.core.engine.commit([Put("locks/r/waiters/)99999999999-z", {})])
        assert [each.ahead for each in asleep(theirs)] == [2]
        tasks.cancel_scope.cancel()


class Haunted(CountingEngine):
    """Shows damaged waiters that no deletion removes, ahead of all others."""

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        if not scan.collection.endswith("/waiters"):
            return super().scan(scan)
        rows = [
            Document(scan.collection, f"999999999999/{n}", Damage("is damaged"), 5 + n, 0) for n in range(self.rows)
        ]
        sound = super().scan(Scan(scan.collection, scan.start))
        is_over = False

        async def fetch() -> Sequence[Document] | None:
            nonlocal is_over
            if is_over:
                return None
            is_over = True
            return [*await collected(sound), *rows][: scan.limit]

        return Paged(fetch)

    rows = 0


@pytest.mark.parametrize("rows", [1, 3, 7])
async def test_waiters_that_nothing_removes_are_passed_over(tmp_path: Path, rows: int):
    """They cost each of the others a few calls, and no order."""
    place = Place(MEMORY, tmp_path)
    async with place.store() as store:
        haunted, time = Haunted(store.core.engine), Time(place.clock)
        haunted.rows = rows
        await _two_take_turns(managed(store, time, haunted), time)
        assert haunted.counts.calls < FEW + 10 * rows
