"""Files of format 1: upgraded wholly or not at all, and never misread."""

from __future__ import annotations

import shutil
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import apsw
import pytest

from tai_state import StateMachinePersister, open_store
from tai_state.engines.api import Put, Scan
from tai_state.engines.sqlite import upgrading
from tai_state.engines.sqlite.schema import FORMAT, connect
from tai_state.errors import CorruptDocument, StoreUnavailable
from tai_state.testing import ManualClock

from ...support.sqlite import engine_over

GOLDEN = Path(__file__).parents[2] / "data" / "store-of-format-1.sqlite"
"""Made by the release of format 1, with a document of every kind."""

anyio_test = pytest.mark.anyio


@pytest.fixture
def old(file: Path) -> Path:
    """A copy of it."""
    shutil.copy(GOLDEN, file)
    return file


def _rows(file: Path, columns: str) -> list[tuple[object, ...]]:
    with closing(apsw.Connection(str(file))) as connection:
        return connection.execute(f"SELECT {columns} FROM documents ORDER BY collection, id").fetchall()


def _sql(file: Path) -> set[object]:
    with closing(apsw.Connection(str(file))) as connection:
        return {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")}


@anyio_test
async def test_an_old_file_is_upgraded_when_it_is_opened(old: Path, tmp_path: Path):
    """Each document is as before, with revision and time, whole by its checksum; the tables are those of a new file."""
    before = _rows(old, "collection, id, fields, revision, updated_us")
    async with engine_over(old) as engine:
        found = [
            each
            for collection in sorted({str(row[0]) for row in before})
            async for each in engine.scan(Scan(collection))
        ]
        assert [(each.collection, each.id, each.revision, each.updated_us) for each in found] == [
            (collection, document_id, revision, time) for collection, document_id, _, revision, time in before
        ]
        assert [each.fields() for each in found]
        assert list(await engine.self_check()) == []
        committed = await engine.commit([Put("c/new", {})])
        assert committed.revision > max(each.revision for each in found)
    assert _rows(old, "collection, id, fields, revision, updated_us")[1:] == before
    async with engine_over(tmp_path / "new.db"):
        pass
    assert _sql(old) == _sql(tmp_path / "new.db")
    with closing(apsw.Connection(str(old))) as connection:
        assert connection.pragma("user_version") == FORMAT
        assert connection.execute("PRAGMA integrity_check").get == "ok"


@anyio_test
async def test_an_upgraded_store_goes_on(old: Path):
    """Its states, history and locks are there, and it takes changes."""
    async with open_store(f"sqlite:///{old}", clock=ManualClock(1_800_000_000_000_000)) as store:
        alice = await store.get_state("bank", "alice")
        assert (alice.version, alice.data) == (6, {"n": 4, "text": "é😀\0"})
        assert [event.version async for event in store.get_events("bank", "alice")] == [1, 2, 3, 4, 5, 6]
        assert [lock.resource async for lock in store.locks.list_locks()] == ["nightly"]
        report = await StateMachinePersister(store).validate_consistency("bank")
        assert [finding.kind for finding in report.findings] == []


@anyio_test
async def test_times_that_are_no_text_are_told_apart(old: Path):
    """A number was kept as a text before: afterwards a scan by time leaves it out."""
    async with engine_over(old) as engine:
        assert [each.id async for each in engine.scan(Scan("logs/x/events", by="timestamp"))] == ["text"]
        assert [each.id async for each in engine.scan(Scan("logs/x/events"))] == ["none", "number", "text"]


@anyio_test
async def test_an_upgrade_that_fails_leaves_the_file_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch):
    """Where it breaks off in the middle nothing has changed, and the next opening upgrades it."""
    before = _rows(old, "*")

    def full(*_: object) -> int:
        raise apsw.exception_for(apsw.SQLITE_FULL)

    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "of_text", full)
        with pytest.raises(StoreUnavailable, match="SQLITE_FULL"):
            async with engine_over(old):
                pass
    assert _rows(old, "*") == before
    async with engine_over(old) as engine:
        assert [each.id async for each in engine.scan(Scan("governors"))] == ["bank", "plant%2F2"]


@anyio_test
async def test_many_may_upgrade_one_file_at_once(old: Path):
    """Engines that open it at the same moment all work on the one upgraded file."""

    async def use(number: int) -> None:
        async with engine_over(old) as engine:
            await engine.commit([Put(f"c/{number}", {})])

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(use, number)
    async with engine_over(old) as engine:
        assert [each.id async for each in engine.scan(Scan("c"))] == [str(number) for number in range(6)]


@anyio_test
async def test_a_damaged_old_file_is_refused_and_stays(old: Path):
    """Where a column is missing, it is damaged; nothing of it is changed."""
    with closing(apsw.Connection(str(old))) as connection:
        connection.execute("ALTER TABLE documents RENAME COLUMN updated_us TO changed")
    before = _rows(old, "*")
    with pytest.raises(CorruptDocument):
        async with engine_over(old):
            pass
    assert _rows(old, "*") == before


@anyio_test
async def test_damage_of_before_is_not_hidden(old: Path):
    """What was no JSON before the upgrade is reported afterwards as before it, by its path; the rest is served."""
    with closing(apsw.Connection(str(old))) as connection:
        connection.execute(
            "UPDATE documents SET fields = CAST(replace(CAST(fields AS BLOB), 'tester', x'74EE74') AS TEXT) "
            "WHERE id = 'alice~000000000002'"
        )
    async with engine_over(old) as engine:
        found = [each async for each in engine.scan(Scan("governors/bank/events"))]
        bad = [each for each in found if each.id == "alice~000000000002"]
        assert [each.fields() for each in found if each not in bad]
        with pytest.raises(CorruptDocument) as caught:
            bad[0].fields()
    assert caught.value.path == "governors/bank/events/alice~000000000002"


@anyio_test
async def test_a_damaged_path_of_before_is_told_of(old: Path):
    """A document whose id is not text any more is reported as damaged, and the file is upgraded all the same."""
    with closing(apsw.Connection(str(old))) as connection:
        connection.execute("UPDATE documents SET id = CAST(x'616CFF' AS TEXT) WHERE id = 'alice~000000000002'")
    async with engine_over(old) as engine:
        found = [each async for each in engine.scan(Scan("governors/bank/events"))]
        [bad] = [each for each in found if each.path == "governors/bank/events/al\\xff"]
        assert all(each.fields() for each in found if each is not bad)
        with pytest.raises(CorruptDocument):
            bad.fields()


def test_a_program_of_format_1_does_not_misread_an_upgraded_file(old: Path):
    """What the release of format 1 asks of the file is an error, and not another answer."""
    opened = partial(connect, str(old), create=False, busy_timeout_ms=0)
    opened().close()
    with closing(apsw.Connection(str(old))) as connection:
        assert connection.pragma("user_version") == FORMAT
        for sql in (
            "SELECT fields, revision, created_us, updated_us FROM documents WHERE collection = 'c' AND id = 'a'",
            "INSERT INTO documents (collection,id,revision,created_us,updated_us,fields) VALUES ('c','a',1,1,1,'{}')",
        ):
            with pytest.raises(apsw.SQLError):
                connection.execute(sql)
