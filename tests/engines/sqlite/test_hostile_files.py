"""Files that do not belong are refused and left alone, and damage is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from tai_state import (
    CorruptDocument,
    EveryEvents,
    IncompatibleFormat,
    StateStore,
    StoreNotFound,
    StoreUnavailable,
    TaiStateError,
    open_store,
)
from tai_state.errors import Inconsistent

from ...support.refusals import names
from ...support.sqlite import seal
from ...support.stores import METADATA, collected

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """What is refused is refused before anything that knows of event loops."""
    return "asyncio"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a sound store: a state of three versions with a snapshot and a marker, and many more around it."""
    path = tmp_path_factory.mktemp("sound") / "store.db"

    async def fill() -> None:
        async with open_store(f"sqlite:///{path}", snapshots=EveryEvents(2)) as store:
            for version in range(3):
                await store.update_state("g", "s", {"n": version}, METADATA, expected=version, event_id=f"e{version}")
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(store.save_state, "g", f"t{number:03d}", {"text": "x" * 500}, METADATA)

    anyio.run(fill)
    return path


@pytest.fixture
def file(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound store's file, to be broken."""
    return shutil.copy(sound, tmp_path / "store.db")


def content_of(path: Path) -> bytes:
    """What is in a file."""
    return path.read_bytes()


def overwrite(path: Path, content: bytes | bytearray) -> None:
    """Change what is in a file."""
    path.write_bytes(content)


def execute(path: Path, *statements: str) -> None:
    """Change a file behind the store's back."""
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
        if statement.startswith("UPDATE"):
            seal(connection)
    connection.close()


FOREIGN: dict[str, tuple[type[TaiStateError], tuple[str, ...]]] = {
    "newer_file": (IncompatibleFormat, ("PRAGMA user_version = 99",)),
    "other_program": (IncompatibleFormat, ("PRAGMA application_id = 5",)),
    "newer_documents": (
        IncompatibleFormat,
        ("UPDATE documents SET fields = json_set(fields, '$.format', 99) WHERE path = 'meta/store'",),
    ),
    "store_document": (CorruptDocument, ("UPDATE documents SET fields = '[]' WHERE path = 'meta/store'",)),
    "counter_empty": (CorruptDocument, ("DELETE FROM counter",)),
    "counter_gone": (CorruptDocument, ("DROP TABLE counter",)),
    "documents_gone": (CorruptDocument, ("DROP TABLE documents",)),
    "column_renamed": (CorruptDocument, ("ALTER TABLE documents RENAME COLUMN revision TO rev",)),
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_files_that_are_not_ours(file: Path, name: str) -> None:
    """A file of another program, of a newer release, or without its tables is refused with a typed error, untouched."""
    kind, statements = FOREIGN[name]
    execute(file, *statements)
    before = content_of(file)
    with pytest.raises(kind) as caught:
        async with open_store(f"sqlite:///{file}"):
            pass
    assert isinstance(caught.value, Inconsistent)
    assert caught.value.path in {str(file), "meta/store"}
    assert content_of(file) == before


@pytest.mark.parametrize(
    "content", [b"plain text, " * 1_000, b"\x00" * 8_192, b"SQLite format 3\x00" + b"\xff" * 4_096]
)
async def test_files_that_are_no_databases(tmp_path: Path, content: bytes) -> None:
    """A file that is no database is refused with a typed error that names it, and not overwritten."""
    path = tmp_path / "store.db"
    overwrite(path, content)
    with pytest.raises(Inconsistent) as caught:
        async with open_store(f"sqlite:///{path}"):
            pass
    assert caught.value.path == str(path)
    assert content_of(path) == content


async def test_a_foreign_database(tmp_path: Path) -> None:
    """Another program's database is not made into a store."""
    path = tmp_path / "store.db"
    execute(path, "CREATE TABLE theirs (x)")
    with pytest.raises(IncompatibleFormat, match="another program"):
        async with open_store(f"sqlite:///{path}"):
            pass


async def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    """A folder, or a file in no folder, cannot be opened; where nothing may be made, the store is not found."""
    with pytest.raises(StoreUnavailable):
        async with open_store(f"sqlite:///{tmp_path}"):
            pass
    with pytest.raises(StoreUnavailable):
        async with open_store(f"sqlite:///{tmp_path}/no/store.db"):
            pass
    with pytest.raises(StoreNotFound):
        async with open_store(f"sqlite:///{tmp_path}/store.db", create=False):
            pass
    assert names(tmp_path) == []


async def test_a_damaged_page(file: Path) -> None:
    """Pages overwritten with rubbish end in a typed error that names the file; what comes back is never wrong data."""
    content = bytearray(content_of(file))
    for start in range(8 * 4_096, len(content), 3 * 4_096):
        content[start : start + 4_096] = b"\xa5" * 4_096
    overwrite(file, content)
    async with open_store(f"sqlite:///{file}") as store:
        with pytest.raises(CorruptDocument) as caught:
            await collected(store.get_all_events("g"))
    assert str(file) in caught.value.path


async def test_half_a_file(file: Path) -> None:
    """A file cut in half is refused as damaged."""
    content = content_of(file)
    overwrite(file, content[: len(content) // 2])
    with pytest.raises(CorruptDocument):
        async with open_store(f"sqlite:///{file}") as store:
            await collected(store.get_all_events("g"))


BROKEN_ROWS = {
    "no_json": "'{'",
    "no_object": "'[1]'",
    "empty_object": "'{}'",
    "wrong_type": "json_set(fields, '$.version', 'two')",
    "version_missing": "json_remove(fields, '$.version')",
}

BROKEN_READS: dict[str, tuple[str, Callable[[StateStore], Any]]] = {
    "get_state": ("governors/g/states/s", lambda store: store.get_state("g", "s")),
    "exists": ("governors/g/states/s", lambda store: store.exists("g", "s")),
    "batch_get_states": ("governors/g/states/s", lambda store: store.batch_get_states("g", ["t000", "s"])),
    "list_states": ("governors/g/states/s", lambda store: collected(store.list_states("g"))),
    "update_state": ("governors/g/states/s", lambda store: store.update_state("g", "s", {}, METADATA, expected=3)),
    "get_stats": ("governors/g/states/s", lambda store: store.get_stats()),
    "get_events": ("governors/g/events/s~000000000002", lambda store: collected(store.get_events("g", "s"))),
    "get_all_events": ("governors/g/events/s~000000000002", lambda store: collected(store.get_all_events("g"))),
    "event_id": (
        "governors/g/ids/e1",
        lambda store: store.update_state("g", "s", {"n": 1}, METADATA, expected=1, event_id="e1"),
    ),
}


@pytest.mark.parametrize("row", BROKEN_ROWS)
async def test_a_broken_row_is_named(file: Path, row: str) -> None:
    """A row whose fields are damaged is never served: a typed error names its document, and quotes nothing of it."""
    for path in {path for path, _ in BROKEN_READS.values()}:
        execute(file, f"UPDATE documents SET fields = {BROKEN_ROWS[row]} WHERE path = '{path}'")
    async with open_store(f"sqlite:///{file}") as store:
        for name, (path, read) in BROKEN_READS.items():
            with pytest.raises(CorruptDocument) as caught:
                await read(store)
            assert caught.value.path == path, name
            assert "two" not in str(caught.value)


async def test_a_damaged_snapshot_is_never_fatal(file: Path) -> None:
    """A kept snapshot that is damaged is passed over: the past is read from the events."""
    execute(file, "UPDATE documents SET fields = '{}' WHERE collection = 'governors/g/snapshots'")
    async with open_store(f"sqlite:///{file}") as store:
        assert await store.load_snapshot("g", "s") is None
        assert (await store.get_state_at("g", "s", 3)).data == {"n": 2}
