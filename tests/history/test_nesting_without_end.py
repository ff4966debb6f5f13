"""JSON that is nested a hundred thousand deep, as nobody writes it: named as damage, and the rest goes on."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from tai_state import (
    CorruptDocument,
    EveryEvents,
    InvalidData,
    StateMachinePersister,
    StateStore,
    TaiStateError,
    open_store,
)

from ..support.program import Inside
from ..support.sqlite import seal
from ..support.stores import GOVERNOR, METADATA, collected

pytestmark = pytest.mark.anyio

LEVELS = 100_000
ARRAYS = "[" * LEVELS + "]" * LEVELS
OBJECTS = '{"a":' * LEVELS + "1" + "}" * LEVELS
EVENT_ID = "the caller's"
FOUND = f"governors/{GOVERNOR}"


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: documents are decoded above the engines."""
    return "asyncio"


def store_in(folder: Path) -> StateStore:
    """The store in a folder."""
    return open_store(f"sqlite:///{folder}/tai-state.db", snapshots=EveryEvents(2), indexed=("v",))


async def make(folder: Path) -> None:
    """A store of three states, the middle one with an event by a caller's id and a kept snapshot."""
    async with store_in(folder) as store:
        for state_id in ("a", "b", "c"):
            await store.save_state(GOVERNOR, state_id, {"v": 0}, METADATA)
        await store.save_state(GOVERNOR, "b", {"v": 1}, METADATA, expected=1, event_id=EVENT_ID)


def nest(folder: Path, collection: str, document_id: str, value: str, nested: str) -> str:
    """Put something nested in place of a value in the text of a document, whose path is returned."""
    with closing(apsw.Connection(str(folder / "tai-state.db"))) as connection:
        place = (f"{FOUND}/{collection}", f"{document_id}%")
        where = "FROM documents WHERE collection = ? AND id LIKE ? ORDER BY id DESC LIMIT 1"
        [(path, text)] = connection.execute(f"SELECT path, fields {where}", place)
        assert text.count(value) == 1
        connection.execute("UPDATE documents SET fields = ? WHERE path = ?", (text.replace(value, nested), path))
        seal(connection)
    return path


def nest_state(folder: Path, nested: str = ARRAYS) -> str:
    """Put something nested into the data of the state in the middle."""
    return nest(folder, "states", "b", '"v":1', f'"v":{nested}')


async def _get(store: StateStore) -> Any:
    return await store.get_state(GOVERNOR, "b")


async def _batch(store: StateStore) -> Any:
    return await store.batch_get_states(GOVERNOR, ["a", "b"])


async def _list(store: StateStore) -> Any:
    return await collected(store.list_states(GOVERNOR))


async def _find(store: StateStore) -> Any:
    return await collected(store.find_states(GOVERNOR, {"v": 1}))


async def _save(store: StateStore) -> Any:
    return await store.save_state(GOVERNOR, "b", {"v": 2}, METADATA, expected=2)


async def _events(store: StateStore) -> Any:
    return await collected(store.get_events(GOVERNOR, "b"))


async def _again(store: StateStore) -> Any:
    return await store.save_state(GOVERNOR, "b", {"v": 1}, METADATA, expected=1, event_id=EVENT_ID)


@pytest.mark.parametrize("nested", [ARRAYS, OBJECTS], ids=["arrays", "objects"])
@pytest.mark.parametrize("call", [_get, _batch, _list, _find, _save])
async def test_a_state_is_named(tmp_path: Path, call: Callable[[StateStore], Awaitable[Any]], nested: str):
    """Whoever meets the state is told which one it is; others are read as ever."""
    await make(tmp_path)
    path = nest_state(tmp_path, nested)
    async with store_in(tmp_path) as store:
        with pytest.raises(CorruptDocument) as told:
            await call(store)
        assert told.value.path == path
        assert (await store.get_state(GOVERNOR, "c")).data == {"v": 0}


@pytest.mark.parametrize(
    ("collection", "value", "nested", "call"),
    [
        pytest.param("events", '"schema":1', f'"schema":1,"x":{ARRAYS}', _events, id="a_field_of_an_event"),
        pytest.param("events", '{\\"v\\":1}', ARRAYS, _events, id="the_state_in_an_event"),
        pytest.param("ids", '"version":2', f'"version":2,"x":{ARRAYS}', _again, id="a_marker"),
    ],
)
async def test_an_event_or_a_marker_is_named(
    tmp_path: Path,
    collection: str,
    value: str,
    nested: str,
    call: Callable[[StateStore], Awaitable[Any]],
):
    """Whoever meets the document is told which one it is."""
    await make(tmp_path)
    path = nest(tmp_path, collection, "b" if collection == "events" else "", value, nested)
    async with store_in(tmp_path) as store:
        with pytest.raises(CorruptDocument) as told:
            await call(store)
        assert told.value.path == path


async def test_a_state_is_found_and_recovered(tmp_path: Path):
    """``verify`` names the state and looks at all others; ``recover`` makes it again from its events."""
    await make(tmp_path)
    path = nest_state(tmp_path)
    async with store_in(tmp_path) as store:
        persister = StateMachinePersister(store)
        report = await persister.validate_consistency()
        assert (report.states, [finding.path for finding in report.findings]) == (3, [path])
        recovered = await persister.recover()
        assert (recovered.checked, recovered.rebuilt, recovered.failed) == (3, (path,), ())
        assert (await store.get_state(GOVERNOR, "b")).data == {"v": 1}
        assert (await persister.validate_consistency()).consistent


@pytest.mark.parametrize(
    ("collection", "value", "nested"),
    [
        pytest.param("events", '"schema":1', f'"schema":1,"x":{ARRAYS}', id="a_field_of_an_event"),
        pytest.param("events", '{\\"v\\":1}', ARRAYS, id="the_state_in_an_event"),
        pytest.param("snapshots", '"schema":1', f'"schema":1,"x":{ARRAYS}', id="a_field_of_a_snapshot"),
        pytest.param("snapshots", '{\\"v\\":1}', ARRAYS, id="the_state_in_a_snapshot"),
    ],
)
async def test_what_a_state_rests_on_is_found(tmp_path: Path, collection: str, value: str, nested: str):
    """``verify`` names a damaged event or kept snapshot and looks at all the rest; ``recover`` comes to its end."""
    await make(tmp_path)
    path = nest(tmp_path, collection, "b", value, nested)
    async with store_in(tmp_path) as store:
        persister = StateMachinePersister(store)
        report = await persister.validate_consistency()
        assert not report.consistent
        assert {finding.path for finding in report.findings} >= {path}
        assert report.states == 3
        assert (await persister.recover()).checked == 3


@pytest.mark.parametrize(
    ("line", "error"), [(0, InvalidData), (1, CorruptDocument), (-1, CorruptDocument)], ids=["first", "second", "last"]
)
async def test_a_line_of_an_export_is_named(tmp_path: Path, line: int, error: type[TaiStateError]):
    """A restore refuses the file with the number of the line, and writes nothing."""
    await make(tmp_path)
    path = tmp_path / "backup.jsonl"
    async with store_in(tmp_path) as store:
        await StateMachinePersister(store).export_history(GOVERNOR, path)
    lines = path.read_text().splitlines()
    lines[line] = lines[line][:-1] + f',"x":{ARRAYS}}}'
    path.write_text("\n".join(lines) + "\n")
    async with open_store("memory://") as empty:
        with pytest.raises(error, match=f"line {len(lines) if line < 0 else line + 1}" if line else str(path)):
            await StateMachinePersister(empty).import_history(path)
        assert await collected(empty.list_governors()) == []


@pytest.mark.parametrize("command", [("show", GOVERNOR, "b"), ("ls", GOVERNOR)], ids=["show", "ls"])
def test_the_program_says_what_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
):
    """The program names the document and ends with the code for damage."""
    anyio.run(make, tmp_path)
    path = nest_state(tmp_path)
    ended = Inside(tmp_path, monkeypatch, capsys)(*command, "--json")
    error = json.loads(ended.err)["error"]
    assert (ended.code, error["type"], error["path"]) == (4, "CorruptDocument", path)


@pytest.mark.parametrize("levels", [201, LEVELS])
async def test_nobody_can_store_it(tmp_path: Path, levels: int):
    """A caller's data, payload or context that is nested too deep is refused, and nothing is written."""
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    async with store_in(tmp_path) as store:
        with pytest.raises(InvalidData, match="nested"):
            await store.save_state(GOVERNOR, "a", {"v": nested}, METADATA)
        assert not await store.exists(GOVERNOR, "a")
