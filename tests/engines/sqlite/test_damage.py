"""Files of other programs, of newer formats, and damaged ones."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import msgspec
import pytest

from tai_state.engines.api import Put, Scan, Shape, Where
from tai_state.engines.sqlite.schema import FORMAT
from tai_state.errors import CorruptDocument, IncompatibleFormat

from ...support.sqlite import all_in, bytes_of, engine_over, names_in

if TYPE_CHECKING:
    from collections.abc import Callable


anyio_test = pytest.mark.anyio


def change(file: Path, sql: str) -> None:
    """Do to the file what another program might."""
    with closing(apsw.Connection(str(file))) as connection:
        connection.execute(sql)


_FOREIGN = {
    "tables of another program": "CREATE TABLE notes (text); INSERT INTO notes VALUES ('mine')",
    "another application id": "PRAGMA application_id = 252006675; CREATE TABLE documents (id)",
    "another application id, no tables": "PRAGMA application_id = 252006675",
}


@anyio_test
@pytest.mark.parametrize("sql", _FOREIGN.values(), ids=_FOREIGN.keys())
@pytest.mark.parametrize("create", [True, False])
async def test_a_file_of_another_program_is_left_alone(file: Path, sql: str, *, create: bool):
    """Another program's database is refused, and not a byte of it changes."""
    change(file, sql)
    before = bytes_of(file)
    with pytest.raises(IncompatibleFormat, match="another program"):
        await all_in(file, create=create)
    assert bytes_of(file) == before
    assert names_in(file.parent) == ["store.db"]


@pytest.fixture(params=[b"hello", b"a diary, not a database\n" * 500, bytes(range(256)) * 32])
def no_database(request: pytest.FixtureRequest, file: Path) -> Path:
    """A file that SQLite did not write."""
    file.write_bytes(request.param)
    return file


@anyio_test
async def test_what_is_no_database_is_refused(no_database: Path):
    """A file that SQLite did not write, or no longer knows, is CorruptDocument, and stays as it is."""
    before = bytes_of(no_database)
    with pytest.raises(CorruptDocument, match="not a SQLite file: correct the address"):
        await all_in(no_database)
    assert bytes_of(no_database) == before


@anyio_test
async def test_a_newer_format_is_refused(made: Path):
    """A store written by a newer release is IncompatibleFormat, and the message says what to do."""
    change(made, f"PRAGMA user_version = {FORMAT + 1}")
    with pytest.raises(IncompatibleFormat, match=rf"format {FORMAT + 1}.*upgrade"):
        await all_in(made)


_DAMAGE = {
    "no column updated_us": ("ALTER TABLE documents RENAME COLUMN updated_us TO changed", "no column updated_us"),
    "no table documents": ("DROP TABLE documents", "no column collection"),
    "no table counter": ("DROP TABLE counter", "counter"),
    "no row in counter": ("DELETE FROM counter", "counter"),
}


@anyio_test
@pytest.mark.parametrize(("sql", "named"), _DAMAGE.values(), ids=_DAMAGE.keys())
async def test_missing_tables_and_columns_are_named(made: Path, sql: str, named: str):
    """A store without one of its tables or columns, or its counter, is CorruptDocument, which names it, at once."""
    change(made, sql)
    with pytest.raises(CorruptDocument, match=named) as caught:
        await engine_over(made).__aenter__()
    assert caught.value.path == str(made)


def _overwrite(file: Path) -> None:
    with file.open("r+b") as raw:
        raw.seek(6 * 4096)
        raw.write(b"\xa5" * (file.stat().st_size - 20 * 4096))


def _truncate(file: Path) -> None:
    os.truncate(file, 12 * 4096)


@anyio_test
@pytest.mark.parametrize("damage", [_overwrite, _truncate])
async def test_damaged_pages_are_reported(made: Path, damage: Callable[[Path], None]):
    """Overwritten or missing pages are CorruptDocument with the file's path, and never documents."""
    damage(made)
    with pytest.raises(CorruptDocument) as caught:
        await all_in(made)
    assert caught.value.path == str(made)


@anyio_test
@pytest.mark.parametrize("text", ["no JSON", "", '{"n": 1', "[1]", "null", '{"n": "\\ud800"}'])
async def test_a_row_that_is_no_json_object_is_reported(made: Path, text: str):
    """Fields that are no JSON object are CorruptDocument wherever they are looked at; others are served."""
    with closing(apsw.Connection(str(made))) as connection:
        connection.execute("UPDATE documents SET fields = ? WHERE id = '100'", (text,))
    async with engine_over(made) as engine:
        good, bad = (await engine.read(["c/099", "c/100"])).documents
        assert good.fields()["n"] == 99
        with pytest.raises(CorruptDocument) as caught:
            bad.fields()
        assert caught.value.path == "c/100"
        chosen = [document async for document in engine.scan(Scan("c", where=[Where("n", (1,))]))]
        assert [document.id for document in chosen] == ["001", "100"]
        with pytest.raises(CorruptDocument):
            chosen[1].fields()
        await engine.commit([Put("c/100", {"n": 100})])
        assert len([document async for document in engine.scan(Scan("c", by="text"))]) == 399


@anyio_test
async def test_a_row_that_sqlite_cannot_parse_is_reported_by_a_scan_by_field(made: Path):
    """Where SQLite itself looks into the fields, text that is no JSON is CorruptDocument too."""
    change(made, "UPDATE documents SET fields = 'no JSON' WHERE id = '100'")
    async with engine_over(made) as engine:
        with pytest.raises(CorruptDocument):
            [document async for document in engine.scan(Scan("c", by="text"))]


@anyio_test
async def test_fields_that_do_not_fit_their_shape_are_reported(made: Path):
    """Decoding into a struct names the field at fault, and not its value."""

    class Shaped(msgspec.Struct):
        n: str

    async with engine_over(made) as engine:
        [document] = (await engine.read(["c/123"])).documents
        with pytest.raises(CorruptDocument, match=r"Shaped.*\$\.n") as caught:
            document.decode(Shape(Shaped))
        assert "123" not in caught.value.what
