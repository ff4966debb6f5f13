"""A damaged document of the locks stops nothing that is about others, and there is a way out of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from tai_state import (
    CorruptDocument,
    LockAlreadyHeld,
    LockInfo,
    LockLost,
    StateMachinePersister,
    StateStore,
    StoreTimeout,
    open_store,
)
from tai_state.engines.api import Committed, Damage, Document, Put, Reading, Scan, Write
from tai_state.locks.locking import LockManager
from tai_state.values.ids import escape_id

from ..support.locks import OVER, TTL, Time, asleep, expire, managed, paths, until
from ..support.program import Inside
from ..support.stores import AroundEngine, collected, edit, fields_at

pytestmark = pytest.mark.anyio

LOCK = {"holder": "ann", "nonce": "n", "ttl": TTL, "acquired_at": ""}
WAITER = {"holder": "ben", "holds": [], "wants": ["m"], "ttl": TTL, "ticket": 0, "n": 1}
DAMAGE = Damage("cannot be read")
HELD = {"resource": "a", "nonce": "n"}

DAMAGED: dict[str, tuple[str, dict[str, Any]]] = {
    "a lock's field of a wrong type": ("locks/m", {**LOCK, "ttl": "long"}),
    "a lock's field that is missing": ("locks/m", {"holder": "ann", "nonce": "n", "ttl": TTL}),
    "a lock whose nonce is no name": ("locks/m", {**LOCK, "nonce": "a/b"}),
    "a lock's name": ("locks/%FF", LOCK),
    "another lock's name": ("locks/m~", LOCK),
    "a renewal": ("lockbeats/z", {"nonce": 1, "n": 1}),
    "a renewal of no lock": ("lockbeats/m", {}),
    "a renewal's name": ("lockbeats/%FF", {"nonce": "n", "n": 1}),
    "a waiter's field of a wrong type": ("locks/a/waiters/x", {**WAITER, "holds": 7}),
    "a waiter's field that is missing": ("locks/a/waiters/x", {}),
    "what a waiter holds": ("locks/a/waiters/x", {**WAITER, "holds": [{**HELD, "resource": ""}]}),
    "what a waiter wants": ("locks/a/waiters/x", {**WAITER, "wants": ["m" * 2_000]}),
    "a waiter who came earlier": ("locks/b/waiters/x", {}),
    "a waiter for nothing that is there": ("locks/m/waiters/x", {"ttl": None}),
    "a waiter in the line of a wrong name": ("locks/%FF/waiters/x", {"ttl": None}),
    "a note": ("lockbreaks/n", {"resource": "m"}),
}
"""A damaged document of each kind, by what is damaged; the locks "a" and "z" are held beside it."""

EACH = pytest.mark.parametrize(("path", "fields"), DAMAGED.values(), ids=[each.replace(" ", "_") for each in DAMAGED])


async def _sound(locks: LockManager) -> tuple[list[str], list[str]]:
    """The locks that a list gives, and the damaged document with which it ends, if it does."""
    found: list[str] = []
    try:
        async for info in locks.list_locks():
            found.append(info.resource)
    except CorruptDocument as error:
        return found, [error.path]
    return found, []


@EACH
async def test_a_damaged_document_stops_no_other(store: StateStore, time: Time, path: str, fields: dict[str, Any]):
    """What is sound is listed, searched, acquired, released, broken and cleaned up, whatever is damaged beside it."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("a", ttl_seconds=60)
    await locks.acquire_lock("z", ttl_seconds=60)
    await store.core.engine.commit([Put(path, fields)])
    is_listed = path.startswith("locks/") and "waiters" not in path
    assert await _sound(locks) == (["a", "z"], [path] if is_listed or path == "lockbeats/z" else [])
    assert await locks.detect_deadlocks() == []
    held = await locks.acquire_lock("b", ttl_seconds=60)
    async with anyio.create_task_group() as tasks:
        done: list[str] = []

        async def wait() -> None:
            async with locks.lock("b", ttl_seconds=60, holding=[lease], wait_seconds=20):
                done.append("b")

        tasks.start_soon(wait)
        await until(lambda: asleep(locks))
        await time.pass_until(lambda: False, seconds=5)  # it has searched for deadlocks
        await locks.release_lock(held)
        await time.pass_until(lambda: done)
    assert done == ["b"]
    await locks.cleanup_expired_locks()
    await locks.release_lock(lease)
    assert isinstance(await locks.break_lock("z"), LockInfo)


@EACH
async def test_a_damaged_document_is_found_and_can_be_removed(
    store: StateStore, time: Time, path: str, fields: dict[str, Any]
):
    """``verify`` names it, and says what removes it; after that, nothing is wrong any more."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("z", ttl_seconds=10 * 86_400)
    await store.core.engine.commit([Put(path, fields)])
    verify = StateMachinePersister(store).validate_consistency
    [finding] = (await verify()).findings
    assert (finding.path, finding.kind) == (path, "corrupt")
    for _ in range(2):
        if "cleanup_expired_locks" in finding.message:
            await locks.cleanup_expired_locks()
        if "`tai-state unlock m`, or call" in finding.message:
            await locks.break_lock("m")
        if "until the lock is renewed" in finding.message:
            await locks.renew_lock(lease)
        time.advance(2 * 86_400)
    assert (await verify()).findings == ()
    assert lease.is_held, "what is sound is left"


@EACH
def test_the_advice_of_verify_leads_out_of_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
    fields: dict[str, Any],
):
    """Whoever follows it by hand, also on SQLite, where one look tells nothing, has a store without a finding."""
    address = f"sqlite:///{tmp_path}/tai-state.db"

    async def fill() -> None:
        async with open_store(address) as store:
            await store.locks.acquire_lock("z", ttl_seconds=60)
            await store.core.engine.commit([Put(path, fields)])

    anyio.run(fill)
    inside = Inside(tmp_path, monkeypatch, capsys)
    found = inside("verify", "--store", address)
    assert (found.code, found.out.count(path)) == (4, 1)
    commands = re.findall(r"`tai-state ([^`]+)`", found.out)
    assert commands
    if "a day after" in found.out:
        with closing(apsw.Connection(str(tmp_path / "tai-state.db"))) as connection:
            connection.execute("UPDATE documents SET updated_us = updated_us - 86400000000 WHERE id = 'n'")
    for command in commands:
        name, *arguments = shlex.split(command)
        if name == "unlock":
            inside(name, *arguments, "--yes", "--store", address)
        else:
            assert inside(name, *arguments, "--store", address).code == 0
    assert inside("verify", "--store", address).code == 0


async def _damaged(locks: LockManager, store: StateStore) -> str:
    """Damage the renewals of the lock "r"; gives the path."""
    await edit(store.core.engine, "lockbeats/r", n="one")
    [found], [path] = await _sound(locks)
    assert (found, path) == ("r", "lockbeats/r")
    return path


async def test_a_damaged_renewal_keeps_the_lease_of_one_who_lives(store: StateStore, other: StateStore, time: Time):
    """It counts as a renewal: the lock is not taken over early, and the next renewal writes it anew."""
    locks, theirs = managed(store, time), managed(other, time)
    lease = await locks.acquire_lock("r", ttl_seconds=TTL)
    await collected(theirs.list_locks())
    time.advance(TTL * 0.8)
    await locks.renew_lock(lease)
    await _damaged(theirs, store)
    time.advance(TTL * 0.8)
    with pytest.raises(LockAlreadyHeld):
        await theirs.acquire_lock("r", wait_seconds=0)
    assert await theirs.cleanup_expired_locks() == 0
    await locks.renew_lock(lease)
    assert (await fields_at(store.core.engine, "lockbeats/r"))["n"] == 2
    assert await _sound(theirs) == (["r"], [])


@pytest.mark.parametrize("end", ["taken over", "broken", "cleaned up"])
async def test_a_damaged_renewal_keeps_no_lock_for_ever(store: StateStore, other: StateStore, time: Time, end: str):
    """The lock is taken over and cleaned up when its time has passed, and broken at any time; the renewal goes too."""
    locks, theirs = managed(store, time), managed(other, time)
    await locks.renew_lock(await locks.acquire_lock("r", ttl_seconds=TTL, holder="ann"))
    await _damaged(theirs, store)
    if end == "broken":
        broken = await theirs.break_lock("r")
        assert broken is not None
        assert broken.holder == "ann"
    else:
        time.advance(OVER)
        if end == "taken over":
            await theirs.acquire_lock("r", wait_seconds=0)
        else:
            assert await theirs.cleanup_expired_locks() == 1
    assert await paths(store.core.engine) == (["locks/r"] if end == "taken over" else [])


async def test_a_damaged_lock_names_the_way_out_of_it(store: StateStore, time: Time):
    """Who wants it is told how it is removed, though it is not known who holds it; then it can be had."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("my job", ttl_seconds=60)
    await edit(store.core.engine, "locks/my job", ttl=None)
    for wait_seconds in (0, 5, None):
        with pytest.raises(CorruptDocument, match="tai-state unlock 'my job'") as caught:
            await locks.acquire_lock("my job", wait_seconds=wait_seconds)
        assert caught.value.path == "locks/my job"
    broken = await locks.break_lock("my job")
    assert broken is not None
    assert (broken.resource, broken.holder, broken.ttl_seconds) == ("my job", "", 0.0)
    assert await locks.break_lock("my job") is None
    with pytest.raises(LockLost):
        await locks.renew_lock(lease)
    async with locks.lock("my job", wait_seconds=0):
        pass


SPECIAL = ["it's $HOME", "x`id`'y", r"C:\temp", "-x", "--help", "a\nb", "café", "a/b", "; false"]


@pytest.mark.parametrize("what", ["locks", "lockbeats"])
@pytest.mark.parametrize("name", SPECIAL)
async def test_the_advice_can_be_pasted_whatever_the_name_is(store: StateStore, name: str, what: str):
    """A shell gives the command the name of the lock, and nothing else; no name is taken for an option."""
    lease = await store.locks.acquire_lock(name, ttl_seconds=60)
    await store.locks.renew_lock(lease)
    await edit(store.core.engine, f"{what}/{escape_id(name)}", nonce=1)
    with pytest.raises(CorruptDocument) as caught:
        await collected(store.locks.list_locks())
    end = "`, or call" if what == "locks" else "`; "
    command = str(caught.value).partition("`tai-state unlock ")[2].partition(end)[0]
    shell = await anyio.run_process(["sh", "-c", f"printf '%s\\0' {command}"])
    words = shell.stdout.decode().split("\0")[:-1]
    assert words == (["--", name] if name.startswith("-") else [name])


@pytest.mark.parametrize("is_taken", [False, True], ids=["broken", "taken and returned"])
@pytest.mark.parametrize("what", ["a field", "all of it"])
async def test_the_holder_of_a_damaged_lock_that_was_broken_is_told(
    store: StateStore, other: StateStore, time: Time, what: str, *, is_taken: bool
):
    """Its release finds the note, as that of a sound lock does: the lock's document names it, or its renewals do."""
    locks = managed(store, time)
    theirs = managed(other, time, Unreadable(other.core.engine, "locks/r") if what == "all of it" else None)
    lease = await locks.acquire_lock("r", ttl_seconds=60)
    if what == "a field":
        await edit(store.core.engine, "locks/r", ttl=None)
    else:
        await locks.renew_lock(lease)
    assert isinstance(await theirs.break_lock("r"), LockInfo)
    if is_taken:
        await theirs.release_lock(await managed(other, time).acquire_lock("r", wait_seconds=0))
    for _ in range(2):
        with pytest.raises(LockLost):
            await locks.release_lock(lease)
    assert await paths(store.core.engine) == []
    assert await collected(store.core.engine.scan(Scan("lockbreaks"))) == []


@pytest.mark.parametrize("nonce", ["", "..", "a/b", "x" * 2_000, 7, None])
async def test_a_damaged_lock_is_broken_whatever_its_holder_is_called(store: StateStore, time: Time, nonce: Any):
    """A name that no tenure has leads to no note, and keeps no lock from being broken."""
    locks = managed(store, time)
    await locks.acquire_lock("r", ttl_seconds=60)
    await edit(store.core.engine, "locks/r", nonce=nonce)
    assert isinstance(await locks.break_lock("r"), LockInfo)
    assert await paths(store.core.engine) == []
    assert await collected(store.core.engine.scan(Scan("lockbreaks"))) == []


async def test_the_note_of_a_damaged_lock_is_removed_after_a_day(store: StateStore, time: Time):
    """Nobody may be there to find it, and nothing says for how long its holder may have worked."""
    locks = managed(store, time)
    await locks.acquire_lock("r", ttl_seconds=60)
    await edit(store.core.engine, "locks/r", ttl=None)
    await locks.break_lock("r")
    assert len(await collected(store.core.engine.scan(Scan("lockbreaks")))) == 1
    await locks.cleanup_expired_locks()
    time.advance(1.2 * 86_400)
    await locks.cleanup_expired_locks()
    assert await collected(store.core.engine.scan(Scan("lockbreaks"))) == []


async def test_a_waiter_is_removed_at_once_if_it_is_damaged(store: StateStore, time: Time):
    """One that lives writes its document again; nothing says how long the others would count."""
    locks = managed(store, time)
    await locks.acquire_lock("a", ttl_seconds=60)
    await store.core.engine.commit([Put("locks/a/waiters/x", {}), Put("locks/a/waiters/y", WAITER)])
    await locks.cleanup_expired_locks()
    assert await paths(store.core.engine, "a") == ["locks/a", "locks/a/waiters/y"]
    await expire(time, locks)


async def test_a_line_goes_on_past_damaged_waiters(store: StateStore, time: Time):
    """However many places ahead are damaged, those who wait get their turns in order, and the damage is gone."""
    locks = managed(store, time)
    lease = await locks.acquire_lock("r", ttl_seconds=60)
    done: list[str] = []

    async def wait(name: str) -> None:
        async with locks.lock("r", ttl_seconds=60):
            done.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "first")
        await until(lambda: len(asleep(locks)) == 1)
        places = [f"locks/r/waiters/{10**12 - 2}-z{n}" for n in range(5)]
        await store.core.engine.commit([Put(place, {"holder": n}) for n, place in enumerate(places)])
        tasks.start_soon(wait, "second")
        await until(lambda: len(asleep(locks)) == 2)
        assert [each.ahead for each in asleep(locks)] == [0, 1]
        await locks.release_lock(lease)
        await time.pass_until(lambda: len(done) == 2)
    assert done == ["first", "second"]
    assert await paths(store.core.engine, "r") == []


async def test_a_damaged_lock_keeps_no_other_from_being_given_back(store: StateStore, time: Time):
    """A call that cannot tell whether it got several locks gives back those that can be read and are its own."""
    locks = managed(store, time)
    engine = store.core.engine

    class Damaging(AroundEngine):
        async def commit(self, writes: Sequence[Write]) -> Committed:
            committed = await self._engine.commit(writes)
            if any(isinstance(each, Put) and each.path == "locks/b" for each in writes):
                await self._engine.commit([Put("locks/b", {})])
                raise StoreTimeout("commit", "TEST", unknown=True)
            return committed

    store.core.engine = Damaging(engine)  # type: ignore[assignment]
    with pytest.raises(CorruptDocument, match="tai-state unlock b"):
        async with locks.lock_all(["a", "b", "c"], ttl_seconds=60):
            pass
    assert await paths(engine) == ["locks/b"]


class Unreadable(AroundEngine):
    """Reads what one document says, and perhaps its revision, as of a row that is damaged."""

    def __init__(self, engine: Any, path: str, revision: int | None = None) -> None:
        super().__init__(engine)
        self._path = path
        self._revision = revision

    async def read(self, paths: Sequence[str]) -> Reading:  # noqa: D102
        reading = await self._engine.read(paths)
        return Reading(tuple(each and self._damaged(each) for each in reading.documents), reading.time_us)

    def _damaged(self, document: Document) -> Document:
        if document.path != self._path:
            return document
        revision = document.revision if self._revision is None else self._revision
        return Document(document.collection, document.id, DAMAGE, revision, document.updated_us)


@pytest.mark.parametrize("renewals", [0, 1])
async def test_of_several_locks_those_that_are_ours_are_released(store: StateStore, time: Time, renewals: int):
    """One that was edited is lost, and its block says so; one that cannot be read is still the holder's."""
    engine = store.core.engine
    locks = managed(store, time, Unreadable(engine, "locks/b"))

    async def hold() -> None:
        async with locks.lock_all(["a", "b", "c"], ttl_seconds=60) as leases:
            await locks.renew_lock(leases[0])
            await edit(engine, "locks/a", ttl=None)
            for _ in range(renewals):
                with pytest.raises(LockLost):
                    await locks.renew_lock(leases[0])

    with pytest.raises(LockLost) as lost:
        await hold()
    assert lost.value.resource == "a"
    assert await paths(engine) == ["locks/a", "lockbeats/a"]


async def test_an_edited_lock_is_lost(store: StateStore, time: Time):
    """Its holder is told so at the release, also if what was edited can still be read."""
    locks = managed(store, time)
    for changes in ({"ttl": None}, {"holder": "ben"}):
        lease = await locks.acquire_lock("r", ttl_seconds=60)
        await edit(store.core.engine, "locks/r", **changes)
        for _ in range(2):
            with pytest.raises(LockLost):
                await locks.release_lock(lease)
        assert await paths(store.core.engine) == ["locks/r"]
        await locks.break_lock("r")


async def test_a_lock_is_taken_over_although_the_revision_of_a_renewal_is_damaged(
    store: StateStore, other: StateStore, time: Time
):
    """Damage can hide the revision, too: what is beside a lock whose time has passed is removed all the same."""
    locks = managed(store, time)
    await locks.renew_lock(await locks.acquire_lock("r", ttl_seconds=TTL))
    theirs = managed(other, time, Unreadable(other.core.engine, "lockbeats/r", revision=0))
    with pytest.raises(CorruptDocument):
        await collected(theirs.list_locks())
    time.advance(OVER)
    await theirs.acquire_lock("r", wait_seconds=0)
    assert await paths(store.core.engine) == ["locks/r"]
