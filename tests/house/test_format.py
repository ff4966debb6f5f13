"""The page on the stored format is true."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tai_state.engines.sqlite import schema
from tai_state.history import cleaned, exportfile, unfinished
from tai_state.locks import records as lock_records
from tai_state.streams import identity, records, retirements, timers
from tai_state.values import ids
from tai_state.values import json as values_json

from ..support.pages import DOCS, blocks

FORMAT = (DOCS / "format.md").read_text()


def _section(heading: str) -> str:
    """The text of one section of ``docs/format.md``, up to the next heading."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", FORMAT, re.DOTALL | re.MULTILINE)
    assert found is not None, f"no section {heading!r}"
    return found[1]


def _first_column(text: str) -> list[str]:
    """The first cells of a section's tables, without their heads."""
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    heads = {index for index, cell in enumerate(rows) if index + 1 < len(rows) and rows[index + 1] == "---"}
    return [cell for index, cell in enumerate(rows) if index not in heads and cell != "---"]


@pytest.mark.parametrize(
    ("heading", "struct"),
    [
        ("governors/{g}", records.GovernorRecord),
        ("governors/{g}/states/{s}", records.StateRecord),
        ("governors/{g}/events/{s}~{n}", records.EventRecord),
        ("governors/{g}/snapshots/{s}~{n}", records.SnapshotRecord),
        ("governors/{g}/ids/{e}", records.MarkerRecord),
        ("governors/{g}/retired/{s}", retirements.RetiredRecord),
        ("governors/{g}/cleaned/{s}", cleaned.CleanedRecord),
        ("locks/{r}", lock_records.LockRecord),
        ("lockbeats/{r}", lock_records.BeatRecord),
        ("lockbreaks/{t}", lock_records.BreakRecord),
        ("locks/{r}/waiters/{o}", lock_records.WaiterRecord),
        ("timers/{due}~{h}", timers.TimerRecord),
        ("meta/store", identity.StoreRecord),
        ("meta/store/restores/{g}", unfinished.RestoreRecord),
    ],
)
def test_the_format_lists_each_documents_fields(heading: str, struct: type[msgspec.Struct]) -> None:
    """The table of a document names exactly the fields that the code stores, in the order of the code."""
    assert _first_column(_section(heading)) == list(struct.__struct_fields__)


def test_the_format_lists_the_fields_of_an_export() -> None:
    """The tables of the export file name its header's fields and those of its lines."""
    fields = [*exportfile.Header.__struct_fields__, *exportfile.Line.__struct_fields__]
    assert _first_column(_section("The export file")) == fields


def test_the_format_lists_the_metadata() -> None:
    """The metadata of states and events has the fields that the format names."""
    for heading, struct in (("states/{s}", records.StateMetadata), ("events/{s}~{n}", records.EventMetadata)):
        [row] = [line for line in _section(f"governors/{{g}}/{heading}").splitlines() if line.startswith("| metadata")]
        assert all(f"`{field}`" in row for field in struct.__struct_fields__)


def test_the_format_shows_the_tables_of_the_file(tmp_path: Path) -> None:
    """The SQL and the pragmas of the format are those of a file that was just made."""
    connection = schema.connect(str(tmp_path / "store.db"), create=True, busy_timeout_ms=0)
    made = [row[0] for row in connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid")]
    pragmas = [connection.pragma(name) for name in ("application_id", "user_version", "journal_mode", "synchronous")]
    connection.close()
    [shown] = [block.text for block in blocks(DOCS / "format.md") if block.language == "sql"]
    assert sorted(re.sub(r"\s+", " ", sql) for sql in made) == sorted(
        re.sub(r"\s+", " ", sql).strip() for sql in shown.split(";\n") if sql.strip()
    )
    assert pragmas == [2048227966, 2, "wal", 2]
    assert "2048227966, which is 0x7A157A7E" in FORMAT
    assert pragmas[0] == 0x7A157A7E


@cache
def _canonical() -> Callable[[Any], str]:
    """The function ``canonical`` of the format's page."""
    namespace: dict[str, Any] = {}
    block, *_ = [block for block in blocks(DOCS / "format.md") if block.language == "python"]
    with contextlib.redirect_stdout(io.StringIO()):
        exec(block.text, namespace)
    return namespace["canonical"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(_JSON)
def test_canonical_json_is_as_the_format_says(value: Any) -> None:
    """The rules for canonical JSON, written out on the page, give the bytes that the code hashes."""
    assert _canonical()(value) == values_json.encode(value)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(1e-7, 1e18).map(lambda x: float(f"{x:.3g}")))
def test_canonical_floats_are_as_the_format_says(number: float) -> None:
    """The rule for floats holds where it changes from one form to another, too."""
    assert _canonical()(number) == values_json.encode(number)


@given(st.text(min_size=1, max_size=40) | st.sampled_from([".", "..", "...", "__a__", "____", "___", "%2E", "a~b/c"]))
def test_ids_are_escaped_as_the_format_says(identifier: str) -> None:
    """The three rules for escaping ids, written out, give the segments that the code stores."""
    try:
        identifier.encode()
    except UnicodeEncodeError:
        return
    escaped = "".join(
        "".join(f"%{byte:02X}" for byte in char.encode())
        if char in "%/~" or ord(char) <= 0x1F or 0x7F <= ord(char) <= 0x9F
        else char
        for char in identifier
    )
    if escaped in {".", ".."}:
        escaped = escaped.replace(".", "%2E")
    elif len(escaped) >= 4 and escaped.startswith("__") and escaped.endswith("__"):
        escaped = "%5F" + escaped[1:]
    assert ids.escape_id(identifier) == escaped


_NOT_IN_HEADER = {"state_hash", "previous", "digest", "payload", "to_state"}


def _golden() -> list[Any]:
    """The JSON blocks of the golden vector: two events, the header of the second, its marker."""
    start = FORMAT[: FORMAT.index("## A golden vector")].count("\n")
    found = [block for block in blocks(DOCS / "format.md") if block.language == "json" and block.line > start]
    return [block.text.strip() if index == 2 else json.loads(block.text) for index, block in enumerate(found)]


def test_the_golden_vector_follows_from_the_documented_bytes() -> None:
    """Each digest of the golden vector is what the rules on the page give: hashlib and text, nothing of the library."""
    first, second, header_text, marker = _golden()
    previous = "0" * 64
    for event in (first, second):
        header = {name: event[name] for name in event if name not in _NOT_IN_HEADER}
        header |= {"governor_id": "bank", "carries_state": "to_state" in event}
        text = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        payload = event.get("payload")
        chain = b"tai-state event 1\x00" + bytes.fromhex(previous) + hashlib.sha256(text.encode()).digest()
        chain += bytes(32) if payload is None else hashlib.sha256(payload.encode()).digest()
        chain += bytes.fromhex(event["state_hash"])
        assert event["previous"] == previous
        previous = hashlib.sha256(chain).hexdigest()
        assert event["digest"] == previous
    assert header_text == text
    assert f"one line of {len(text.encode())} bytes" in FORMAT
    assert first["state_hash"] == hashlib.sha256(first["to_state"].encode()).hexdigest()
    [after] = re.findall(r"After it the state is `([^`]*)`", FORMAT)
    assert second["state_hash"] == hashlib.sha256(after.encode()).hexdigest()
    content = ["alice", "deposit", second["payload"], None, "teller-3", "counter", second["metadata"]["context"]]
    text = json.dumps([*content, second["timestamp"]], ensure_ascii=False, separators=(",", ":"))
    assert marker["content"] == hashlib.sha256(b"tai-state content 1\x00" + text.encode()).hexdigest()
    assert hashlib.sha256(b"null").hexdigest() in FORMAT


def test_the_library_agrees_with_the_golden_vector() -> None:
    """The code computes the documented digests from the documented events."""
    for fields in _golden()[:2]:
        assert msgspec.convert(fields, records.EventRecord).computed_digest("bank") == fields["digest"]
