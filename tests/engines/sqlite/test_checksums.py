"""What is damaged in a row is reported of its document, whatever it is, and of no other."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from struct import pack
from zlib import crc32

import apsw
import pytest

from tai_state.engines.api import Document, Put, Scan, Where, after
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.errors import CorruptDocument
from tai_state.testing import ManualClock

from ...support.sqlite import engine_over

pytestmark = pytest.mark.anyio

_TEXT = '{"timestamp":"2026-01-01","n":5,"name":"ana"}'
_DAMAGE = {
    "the text": "fields = replace(fields, 'ana', 'ann')",
    "a digit": "fields = replace(fields, '5', '4')",
    "the bytes of the text": "fields = CAST(replace(CAST(fields AS BLOB), 'ana', x'61EE61') AS TEXT)",
    "no JSON": "fields = 'no JSON'",
    "an empty text": "fields = ''",
    "the revision": "revision = revision + 1",
    "a high bit of the revision": "revision = revision | (1 << 50)",
    "the time": "updated_us = updated_us - 1",
    "revision and time": "revision = revision + 4, updated_us = updated_us - 4",
    "the checksum": "checksum = checksum + 1",
    "another document's content": "fields = (SELECT fields FROM documents WHERE id = 'c'), "
    "checksum = (SELECT checksum FROM documents WHERE id = 'c')",
}


@pytest.fixture
async def events(file: Path) -> Path:
    """A closed store that holds five events."""
    async with engine_over(file) as engine:
        await engine.commit([Put(f"g/x/events/{name}", {"timestamp": "2026-01-01", "n": 5}) for name in "acde"])
        await engine.commit([Put("g/x/events/b", {"timestamp": "2026-01-01", "n": 5, "name": "ana"})])
    return file


def _change(file: Path, sql: str) -> None:
    with closing(apsw.Connection(str(file))) as connection:
        connection.execute(sql)


async def _looks(engine: SqliteEngine) -> dict[str, list[Document]]:
    """The five documents, in each way to have them."""
    scans = {
        "scan": Scan("g/x/events"),
        "scan by time": Scan("g/x/events", by="timestamp"),
        "scan with a filter": Scan("g/x/events", where=[Where("n", (5,))]),
    }
    found = {name: [each async for each in engine.scan(scan)] for name, scan in scans.items()}
    read = (await engine.read([f"g/x/events/{name}" for name in "abcde"])).documents
    [alone] = (await engine.read(["g/x/events/b"])).documents
    found["read"] = [each for each in read if each is not None]
    found["read alone"] = [each if each.id != "b" or alone is None else alone for each in found["read"]]
    return found


@pytest.mark.parametrize("damage", _DAMAGE.values(), ids=_DAMAGE.keys())
async def test_damage_is_reported_of_its_document_alone(events: Path, damage: str):
    """Whatever is changed in a row, looking at that document says so by its path; the others are served as they are."""
    _change(events, f"UPDATE documents SET {damage} WHERE id = 'b'")
    async with engine_over(events) as engine:
        for name, found in (await _looks(engine)).items():
            assert [each.id for each in found] == ["a", "b", "c", "d", "e"], name
            for each in found:
                if each.id == "b":
                    for look in (each.fields, lambda each=each: each.size):
                        with pytest.raises(CorruptDocument, match="checksum") as caught:
                            look()
                        assert caught.value.path == "g/x/events/b"
                else:
                    assert each.fields() == {"timestamp": "2026-01-01", "n": 5}, name
        await engine.commit([Put("g/x/events/b", {"timestamp": "2026-01-01", "n": 5})])
        assert {each.fields()["n"] for found in (await _looks(engine)).values() for each in found} == {5}


@pytest.mark.parametrize(
    "damage", ["id = 'bb'", "collection = 'g/y/events'", "id = CAST(x'62EE62' AS TEXT)"], ids=lambda each: each[:6]
)
async def test_a_document_in_another_place_is_damaged(events: Path, damage: str):
    """A row whose place has changed is reported where it stands now, and a scan goes on behind it."""
    _change(events, f"UPDATE documents SET {damage} WHERE id = 'b'")
    async with engine_over(events) as engine:
        bad: list[str] = []
        good: list[str] = []
        for collection in ("g/x/events", "g/y/events"):
            async for each in engine.scan(Scan(collection)):
                try:
                    each.fields()
                except CorruptDocument as error:
                    bad.append(error.path)
                else:
                    good.append(each.id)
        assert good == ["a", "c", "d", "e"]
        assert len(bad) == 1
        assert (await engine.read(["g/x/events/b"])).documents == (None,)


async def test_a_scan_goes_on_behind_a_name_that_is_no_text(file: Path):
    """An id, or a time, that is not even UTF-8 neither ends a scan nor hides a document of a later page."""
    ids = [f"{n:05}" for n in range(1_200)]
    async with engine_over(file) as engine:
        await engine.commit([Put(f"g/x/events/{each}", {"timestamp": each}) for each in ids])
    for n in (100, 511, 512, 1_100):
        name = f"UPDATE documents SET id = CAST(CAST(id AS BLOB) || x'FF' AS TEXT) WHERE id = '{n:05}'"
        time = f"UPDATE documents SET timestamp = CAST(timestamp || x'FF' AS TEXT) WHERE id = '{n + 1:05}'"
        _change(file, f"{name}; {time}")
    async with engine_over(file) as engine:
        for scan in (Scan("g/x/events"), Scan("g/x/events", by="timestamp")):
            found = [each.id async for each in engine.scan(scan)]
            assert [each[:5] for each in found] == ids
        assert [each.id[:5] async for each in engine.scan(Scan("g/x/events", start=after("00100")))] == ids[100:]


async def test_the_column_of_times_is_compared_by_the_self_check(events: Path):
    """A time that no longer is the field's, or is missing, would hide an event from a scan by time: it is found."""
    async with engine_over(events) as engine:
        assert list(await engine.self_check()) == []
    _change(events, "UPDATE documents SET timestamp = '2027' WHERE id = 'b'")
    _change(events, "UPDATE documents SET timestamp = NULL WHERE id = 'd'")
    async with engine_over(events) as engine:
        found = await engine.self_check()
    assert sorted(each.path for each in found) == ["g/x/events/b", "g/x/events/d"]
    assert all("timestamp" in each.what for each in found)


async def test_the_checksum_is_as_the_format_says(file: Path):
    """It is the CRC-32 of path, text, revision and time, as another program would compute it."""
    async with SqliteEngine(str(file), ManualClock(1_700_000_000_000_000)) as engine:
        committed = await engine.commit([Put("g/x/events/b", {"timestamp": "2026-01-01", "n": 5, "name": "ana"})])
    with closing(apsw.Connection(str(file))) as connection:
        row = connection.execute("SELECT fields, revision, updated_us, checksum FROM documents").fetchall()
    covered = b"g/x/events/b" + _TEXT.encode() + pack("<qq", committed.revision, committed.time_us)
    assert row == [(_TEXT, committed.revision, committed.time_us, crc32(covered))]
