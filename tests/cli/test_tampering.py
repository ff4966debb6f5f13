"""``tai-state verify`` sees every change made behind the store's back, and names the document."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from tai_state import ChangeMetadata, Columns, EveryEvents, StateMachinePersister, open_store

from ..support.program import IMPORT, Inside, Program, write_csv
from ..support.sqlite import seal

Fields = dict[str, Any]
Edit = Callable[[Fields], None]

ROWS = [
    *([f"M-{number % 2}", f"2026-03-0{number + 1}T12:00:00Z", "on", str(number), "ana", "x"] for number in range(5)),
    ["M-2", "2026-03-09T12:00:00+01:00", "", "0", "", ""],
]
OTHER_HASH = "0123456789abcdef" * 4


async def _import(url: str, path: Path) -> None:
    async def acknowledged(_: Any) -> None:
        pass

    async with open_store(url, snapshots=EveryEvents(2)) as store:
        columns = Columns("machine", ("status", "level"), "when", "who")
        await StateMachinePersister(store).import_csv("g", path, columns, acknowledged)
        metadata = ChangeMetadata("ana", "to have a marker", {"k": [1]})
        await store.log_event("g", "M-2", "noted", metadata, payload={"n": 1}, event_id="the caller's")
        await store.delete_state("g", "M-2", metadata, expected=2)


class Victim:
    """A store whose table is edited by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = str(folder / "tai-state.db")

    def execute(self, statement: str, *values: Any) -> list[Any]:
        """One statement, on a connection of its own; checksums are made to fit."""
        connection = apsw.Connection(self._file)
        try:
            found = list(connection.execute(statement, values))
            if statement.startswith("UPDATE"):
                seal(connection)
            return found
        finally:
            connection.close()

    def paths(self, collection: str) -> list[str]:
        """The documents of one collection of the governor."""
        return [
            path
            for (path,) in self.execute("SELECT path FROM documents WHERE collection = ?", f"governors/g/{collection}")
        ]

    def text(self, path: str) -> str:
        """A document's fields as stored."""
        [(text,)] = self.execute("SELECT fields FROM documents WHERE path = ?", path)
        return text

    @contextmanager
    def with_text(self, **texts: str) -> Iterator[None]:
        """Replace the fields of documents, and put them back in the end."""
        before = {path: self.text(path) for path in texts}
        for path, text in texts.items():
            self.execute("UPDATE documents SET fields = ? WHERE path = ?", text, path)
        try:
            yield
        finally:
            for path, text in before.items():
                self.execute("UPDATE documents SET fields = ? WHERE path = ?", text, path)

    @contextmanager
    def with_a_flipped_bit(self, index: str, text: bytes) -> Iterator[Path]:
        """Damage this text in the file's index, and put it right in the end."""
        [(page,)] = self.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", index)
        file = Path(self._file)
        before = file.read_bytes()
        at = before.index(text, (page - 1) * 4096, page * 4096)
        file.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
        try:
            yield file
        finally:
            file.write_bytes(before)

    @contextmanager
    def moved(self, path: str, collection: str, document_id: str) -> Iterator[None]:
        """Move a document elsewhere, and put it back in the end."""
        place = path.rpartition("/")[::2]
        move = "UPDATE documents SET collection = ?, id = ? WHERE path = ?"
        self.execute(move, collection, document_id, path)
        try:
            yield
        finally:
            self.execute(move, *place, f"{collection}/{document_id}")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small imported store."""
    folder = tmp_path_factory.mktemp("imported")
    anyio.run(_import, f"sqlite:///{folder}/tai-state.db", write_csv(folder / "log.csv", ROWS))
    return folder


@pytest.fixture
def victim(imported: Path, tmp_path: Path) -> Victim:
    """A copy of the imported store, to be changed."""
    for path in imported.iterdir():
        shutil.copy(path, tmp_path)
    return Victim(tmp_path)


Verify = Callable[[], tuple[int, list[str]]]


@pytest.fixture
def verify(victim: Victim, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Verify]:
    """``tai-state verify --json`` in this process: exit code, and paths that it names. All is well before and after."""
    program = Inside(victim.folder, monkeypatch, capsys)

    def run() -> tuple[int, list[str]]:
        ended = program("verify", "--json")
        assert ended.err == ""
        return ended.code, [each["path"] for each in json.loads(ended.out)["findings"]]

    assert run() == (0, [])
    yield run
    assert run() == (0, [])


def _set(name: str, value: Any) -> Edit:
    """An edit of one field, by the dotted path of its keys; the value may depend on the old one."""

    def edit(fields: Fields) -> None:
        *parents, last = name.split(".")
        for parent in parents:
            fields = fields[parent]
        fields[last] = value(fields.get(last)) if callable(value) else value

    return edit


def _without(name: str) -> Edit:
    return lambda fields: fields.pop(name, None)


def _other_clock(clock: dict[str, int]) -> dict[str, int]:
    return {store: count + 1 for store, count in clock.items()}


EVENT_EDITS: dict[str, Edit] = {
    "event_id": _set("event_id", "another"),
    "state_id": _set("state_id", "M-9"),
    "version": _set("version", lambda version: version + 1),
    "action": _set("action", "approved"),
    "timestamp": _set("timestamp", "2026-03-01T12:00:00.000001Z"),
    "timestamp_no_time": _set("timestamp", "never"),
    "causality": _set("causality", _other_clock),
    "causality_empty": _set("causality", {}),
    "hlc": _set("hlc", lambda hlc: hlc + 1),
    "changed_by": _set("metadata.changed_by", "mallory"),
    "reason": _set("metadata.reason", "none of your business"),
    "parent_version": _set("metadata.parent_version", lambda version: version + 1),
    "context": _set("metadata.context", '{"note, free":"y"}'),
    "context_no_json": _set("metadata.context", "{"),
    "schema": _set("schema", 2),
    "state_hash": _set("state_hash", OTHER_HASH),
    "previous": _set("previous", OTHER_HASH),
    "digest": _set("digest", OTHER_HASH),
    "payload": _set("payload", '{"n":2}'),
    "payload_no_json": _set("payload", "{"),
    "to_state": _set("to_state", '{"level":"9","status":"on"}'),
    "to_state_no_json": _set("to_state", "{"),
    "field_missing": _without("hlc"),
    "field_type": _set("version", "1"),
    "state_hash_no_hex": _set("state_hash", "none"),
    "previous_no_hex": _set("previous", "none"),
    "digest_no_hex": _set("digest", "none"),
}

STATE_EDITS: dict[str, Edit] = {
    "data": _set("data", {"status": "on", "level": "99"}),
    "version": _set("version", lambda version: version + 1),
    "version_back": _set("version", lambda version: version - 1),
    "timestamp": _set("timestamp", "2026-03-01T12:00:00.000001Z"),
    "timestamp_no_time": _set("timestamp", "never"),
    "as_of": _set("as_of", "2027-01-01T00:00:00.000000Z"),
    "changed_by": _set("metadata.changed_by", "mallory"),
    "reason": _set("metadata.reason", "none of your business"),
    "parent_version": _set("metadata.parent_version", lambda version: version + 1),
    "context": _set("metadata.context", {"note, free": "y"}),
    "causality": _set("causality", _other_clock),
    "hlc": _set("hlc", lambda hlc: hlc + 1),
    "state_hash": _set("state_hash", OTHER_HASH),
    "digest": _set("digest", OTHER_HASH),
    "digest_no_hex": _set("digest", "none"),
    "schema": _set("schema", 2),
    "deleted": _set("deleted", lambda deleted: not deleted),
    "field_missing": _without("hlc"),
    "field_type": _set("version", "1"),
}

SNAPSHOT_EDITS: dict[str, Edit] = {
    "state": _set("state", '{"level":"9","status":"on"}'),
    "state_no_json": _set("state", "{"),
    "state_id": _set("state_id", "M-9"),
    "version": _set("version", lambda version: version - 1),
    "timestamp": _set("timestamp", "2026-03-01T12:00:00.000001Z"),
    "as_of": _set("as_of", "2027-01-01T00:00:00.000000Z"),
    "state_hash": _set("state_hash", OTHER_HASH),
    "digest": _set("digest", OTHER_HASH),
    "schema": _set("schema", 2),
    "field_missing": _without("schema"),
}

MARKER_EDITS: dict[str, Edit] = {
    "state_id": _set("state_id", "M-1"),
    "version": _set("version", 1),
    "field_missing": _without("version"),
}


def _edited(victim: Victim, verify: Verify, collection: str, edit: Edit) -> None:
    """Each document of a collection, edited in turn, makes ``verify`` end with 4 and name it."""
    paths = victim.paths(collection)
    assert paths
    for path in paths:
        fields = json.loads(victim.text(path))
        edit(fields)
        assert fields != json.loads(victim.text(path)), path
        with victim.with_text(**{path: json.dumps(fields)}):
            code, named = verify()
        assert (code, path in named) == (4, True), (path, named)


@pytest.mark.parametrize("name", EVENT_EDITS)
def test_an_edited_event_is_found(victim: Victim, verify: Verify, name: str) -> None:
    """Any field of any event, changed by hand, is seen, and the event is named."""
    _edited(victim, verify, "events", EVENT_EDITS[name])


@pytest.mark.parametrize("name", STATE_EDITS)
def test_an_edited_state_is_found(victim: Victim, verify: Verify, name: str) -> None:
    """Any field of any state, changed by hand, is seen, and the state is named."""
    _edited(victim, verify, "states", STATE_EDITS[name])


def test_a_snapshot_listed_and_not_there_is_found(victim: Victim, verify: Verify) -> None:
    """A state that lists a kept snapshot of which there is none is seen; what is named is the snapshot."""
    path = victim.paths("states")[0]
    fields = json.loads(victim.text(path))
    fields["kept"].insert(0, 1)
    with victim.with_text(**{path: json.dumps(fields)}):
        assert verify() == (4, ["governors/g/snapshots/M-0~000000000001"])


@pytest.mark.parametrize("name", SNAPSHOT_EDITS)
def test_an_edited_snapshot_is_found(victim: Victim, verify: Verify, name: str) -> None:
    """Any field of any kept snapshot, changed by hand, is seen, and the snapshot is named."""
    _edited(victim, verify, "snapshots", SNAPSHOT_EDITS[name])


@pytest.mark.parametrize("name", MARKER_EDITS)
def test_an_edited_marker_is_found(victim: Victim, verify: Verify, name: str) -> None:
    """A marker of a caller's event id that names another place is seen, and named."""
    _edited(victim, verify, "ids", MARKER_EDITS[name])


@pytest.mark.parametrize("collection", ["events", "states", "snapshots", "ids"])
def test_text_that_is_no_json_is_found(victim: Victim, verify: Verify, collection: str) -> None:
    """A document whose fields are no JSON at all is seen, and named."""
    for path in victim.paths(collection):
        with victim.with_text(**{path: victim.text(path)[:-1]}):
            code, named = verify()
        assert (code, path in named) == (4, True), (path, named)


@pytest.mark.parametrize("collection", ["events", "states", "snapshots"])
def test_a_removed_document_is_found(victim: Victim, verify: Verify, collection: str) -> None:
    """Any event, state or kept snapshot that is removed is missed, and named."""
    for path in victim.paths(collection):
        with victim.moved(path, "aside", "it"):
            code, named = verify()
        assert (code, path in named) == (4, True), (path, named)


@pytest.mark.parametrize("collection", ["events", "states", "snapshots"])
def test_swapped_documents_are_found(victim: Victim, verify: Verify, collection: str) -> None:
    """Two documents that change places are seen, both of them, within one stream and across streams."""
    paths = victim.paths(collection)
    first = paths[0]
    for second in paths[1:]:
        with victim.with_text(**{first: victim.text(second), second: victim.text(first)}):
            code, named = verify()
        assert (code, {first, second} <= set(named)) == (4, True), (second, named)


@pytest.mark.parametrize("segment", ["nowhere", "M-0~00000000001x", "%FF~000000000001"])
def test_an_event_in_no_place_is_found(victim: Victim, verify: Verify, segment: str) -> None:
    """An event under an id that the store never makes is seen, and named."""
    path = victim.paths("events")[-1]
    with victim.moved(path, "governors/g/events", segment):
        code, named = verify()
    assert (code, f"governors/g/events/{segment}" in named) == (4, True), named


def test_an_index_that_misses_events_is_found(victim: Victim, verify: Verify) -> None:
    """A flipped bit in an index, below the documents, is seen, and the file is named."""
    with victim.with_a_flipped_bit("documents_by_timestamp", b"governors/g/events") as file:
        code, named = verify()
    assert (code, str(file) in named) == (4, True), named


def test_a_damaged_file_is_not_called_an_empty_one(victim: Victim) -> None:
    """Where the index that leads to the store's own document is damaged, that is said."""
    with victim.with_a_flipped_bit("sqlite_autoindex_documents_1", b"metastore") as file:
        shown = Program(victim.folder)("ls")
    assert (shown.code, str(file) in shown.err, "damaged" in shown.err) == (4, True, True), shown


def test_people_are_told_the_path(victim: Victim) -> None:
    """The installed program names the document in its table and ends with 4; put back, it ends with 0."""
    program = Program(victim.folder)
    path = victim.paths("events")[3]
    with victim.with_text(**{path: victim.text(path).replace('"import"', '"approved"')}):
        shown = program("verify")
    assert shown.code == 4
    assert path in shown.out
    assert "was edited" in shown.out
    assert program("verify").out == "3 states, 8 events: consistent\n"
    assert program("import", "log.csv", "--governor", "g", *IMPORT, "--json").code == 0
