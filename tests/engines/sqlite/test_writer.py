"""The writer: commits that share a transaction."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import apsw
import pytest

from tai_state.engines.api import ABSENT, PRESENT, At, Check, Committed, Delete, Put
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.engines.sqlite.worker import Job, Worker
from tai_state.errors import CommitRefused, StoreTimeout, StoreUnusable
from tai_state.testing import ManualClock

from ...support.sqlite import all_in, connected, engine_over, served, statements_seen, writer_over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tai_state.engines.api import Write


anyio_test = pytest.mark.anyio


@anyio_test
async def test_commits_that_wait_share_a_transaction(file: Path):
    """Sixty-four commits that wait for another writer take two transactions, and each its own revision."""
    async with engine_over(file):
        pass
    revisions: list[int] = []
    with statements_seen() as statements, closing(connected(file)) as other:
        async with engine_over(file) as engine:

            async def commit(n: int) -> None:
                revisions.append((await engine.commit([Put(f"c/{n}", {})])).revision)

            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as tasks:
                for n in range(64):
                    tasks.start_soon(commit, n)
                await anyio.wait_all_tasks_blocked()
                statements.clear()
                other.execute("ROLLBACK")
            begun = [sql for sql, _ in statements if sql.startswith("BEGIN")]
    assert len(begun) <= 2
    assert len(set(revisions)) == 64
    assert len(await all_in(file)) == 64


@anyio_test
async def test_tasks_that_were_answered_together_are_served_together():
    """Sixty-four tasks that go on after one answer are one batch again, and not the first of them and then the rest."""
    sizes: list[int] = []
    begun, gate = threading.Event(), threading.Event()

    def serve(jobs: Sequence[Job[Any]]) -> None:
        sizes.append(len(jobs))
        begun.set()
        gate.wait()

    async def ask() -> None:
        for _ in range(5):
            await worker.do(None)

    worker = Worker("together", serve, lambda: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.do, None)
        await anyio.to_thread.run_sync(begun.wait)
        for _ in range(64):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    worker.close()
    await worker.wait_closed()
    assert sizes == [1, 64, 64, 64, 64, 64]


@anyio_test
async def test_a_file_put_back_gives_no_revision_again(file: Path, monkeypatch: pytest.MonkeyPatch):
    """A backup put back under a running process: nobody gives a revision that was given after the backup was made."""
    monkeypatch.setattr("tai_state.engines.sqlite.writer.RESERVED", 3)
    backup = file.with_name("backup.db")
    async with SqliteEngine(str(file), ManualClock(step_us=1_000)) as engine:
        await engine.commit([Put("c/a", {"n": 0})])
        _copy(file, backup)
        given = {(await engine.commit([Put("c/a", {"n": n})])).revision for n in range(8)}
        _copy(backup, file)
        async with SqliteEngine(str(file), ManualClock(ManualClock().now_us() + 500_000, step_us=1_000)) as other:
            again = {(await other.commit([Put("c/a", {"n": n})])).revision for n in range(8)}
            again |= {(await engine.commit([Put("c/a", {"n": n})])).revision for n in range(8)}
    assert not given & again


def _copy(source: Path, target: Path) -> None:
    with (
        closing(apsw.Connection(str(source))) as one,
        closing(apsw.Connection(str(target))) as other,
        other.backup("main", one, "main") as backup,
    ):
        backup.step()


@anyio_test
async def test_closing_answers_the_commits_that_wait(file: Path):
    """Commits that wait for another writer when the engine is closed are applied, and answered, first."""
    async with engine_over(file):
        pass
    revisions: list[int] = []
    with closing(connected(file)) as other, statements_seen() as statements, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            engine = await engine_over(file).__aenter__()

            async def commit(n: int) -> None:
                revisions.append((await engine.commit([Put(f"c/{n}", {})])).revision)

            other.execute("BEGIN IMMEDIATE")
            tasks.start_soon(commit, 0)
            while not any(sql.startswith("BEGIN") for sql, _ in statements):
                await anyio.lowlevel.checkpoint()
            for n in range(1, 8):
                tasks.start_soon(commit, n)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(engine.__aexit__, None, None, None)
            await anyio.wait_all_tasks_blocked()
            other.execute("ROLLBACK")
    assert len(revisions) == 8
    assert {each.revision for each in await all_in(file)} == set(revisions)


@anyio_test
async def test_commits_in_one_transaction_see_each_other(file: Path):
    """Commits served together are decided one after the other, as if each had been alone."""
    with writer_over(file) as writer:
        made, second, at_first, gone, again, checked = served(
            writer,
            [Put("c/a", {"n": 1}, ABSENT)],
            [Put("c/a", {"n": 2}, ABSENT), Put("c/b", {})],
            [Put("c/a", {"n": 3}, At(2))],
            [Delete("c/a"), Put("c/c", {})],
            [Put("c/a", {"n": 4}, ABSENT)],
            [Check("c/a", ABSENT)],
        )
    assert made.revision < gone.revision < again.revision
    assert isinstance(second, CommitRefused)
    assert isinstance(checked, CommitRefused)
    assert (second.path, checked.path) == ("c/a", "c/a")
    assert isinstance(at_first, Committed if made.revision == 2 else CommitRefused)
    found = {document.path: document.revision for document in await all_in(file)}
    assert found == {"c/a": again.revision, "c/c": gone.revision}


@anyio_test
@pytest.mark.parametrize(
    "refused",
    [
        Put("c/a", {}, At(999)),
        Put("c/a", {}, ABSENT),
        Put("c/none", {}, PRESENT),
        Delete("c/a", At(999)),
        Delete("c/none", PRESENT),
        Check("c/a", ABSENT),
    ],
    ids=repr,
)
async def test_a_commit_refused_at_a_later_write_writes_nothing(file: Path, refused: Write):
    """What is already written of it when it turns out refused is gone, and those around it are not."""
    with writer_over(file) as writer:
        answers = served(
            writer,
            [Put("c/a", {"n": 1}, ABSENT)],
            [Put("c/new", {"n": 2}, ABSENT), Put("c/other", {"n": 2}), refused],
            [Put("c/new", {"n": 3}, ABSENT), Delete("c/none")],
            [Put("c/a", {"n": 4}, ABSENT), Put("c/other", {"n": 4})],
        )
    first, second, third, fourth = answers
    assert isinstance(second, CommitRefused)
    assert isinstance(fourth, CommitRefused)
    assert (second.path, fourth.path) == (refused.path, "c/a")
    found = {document.path: (document.revision, document.fields()) for document in await all_in(file)}
    assert found == {"c/a": (first.revision, {"n": 1}), "c/new": (third.revision, {"n": 3})}


@anyio_test
async def test_a_file_held_by_another_process_is_a_timeout(file: Path):
    """A writer that gets no turn answers StoreTimeout, which may be tried again, and then succeeds."""
    with writer_over(file) as writer, closing(connected(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        answers = served(writer, [Put("c/a", {})], [Put("c/b", {}, ABSENT)])
        assert [type(each) for each in answers] == [StoreTimeout] * 2
        assert {(each.code, each.unknown, each.is_transient) for each in answers} == {("SQLITE_BUSY", False, True)}
        other.execute("ROLLBACK")
        [committed] = served(writer, [Put("c/a", {})])
        assert isinstance(committed, Committed)


@anyio_test
async def test_a_connection_that_may_not_write_is_unusable(file: Path):
    """A write that SQLite refuses as read-only is StoreUnusable, and stores nothing."""

    def open_read_only() -> apsw.Connection:
        connection = connected(file)
        connection.pragma("query_only", True)
        return connection

    with writer_over(file, open_read_only) as writer:
        answers = served(writer, [Put("c/a", {})], [Delete("c/a")])
    assert {(type(each), each.code, each.unknown) for each in answers} == {(StoreUnusable, "SQLITE_READONLY", False)}
    assert await all_in(file) == []


class _BrokenOnce(ManualClock):
    """A clock that fails once, at its third look."""

    looks = 0

    def now_us(self) -> int:
        self.looks += 1
        if self.looks == 3:
            raise ValueError("no time")
        return super().now_us()


@anyio_test
async def test_an_unforeseen_error_does_not_disable_the_writer(file: Path):
    """After an error that is none of SQLite's, within a commit, the next commits go through."""
    with anyio.fail_after(60):
        async with SqliteEngine(str(file), _BrokenOnce()) as engine:
            for n in range(2):
                await engine.commit([Put(f"c/{n}", {})])
            with pytest.raises(ValueError, match="no time"):
                await engine.commit([Put("c/2", {})])
            await engine.commit([Put("c/3", {})])
    assert [each.id for each in await all_in(file)] == ["0", "1", "3"]
