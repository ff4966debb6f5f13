"""Flips: one change each of what is stored, past the library; and the ground on which they are made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from random import Random
from typing import Any, Protocol, TypeAlias

import apsw

from tai_state.engines.api import Document, Shape, split
from tai_state.engines.memory import MemoryDocuments
from tai_state.history import cleaned, unfinished
from tai_state.locks import records as lock_records
from tai_state.streams import identity, records, retirements, timers

Value: TypeAlias = Any

SHAPES: dict[str, Shape[Any]] = {
    "governor": records.GOVERNOR,
    "state": records.STATE,
    "event": records.EVENT,
    "snapshot": records.SNAPSHOT,
    "marker": records.MARKER,
    "retired": retirements.RETIRED,
    "cleaned": cleaned.CLEANED,
    "timer": timers.TIMER,
    "store": identity.STORE,
    "restore": unfinished.RESTORE,
    "lock": lock_records.LOCK,
    "lockbeat": lock_records.BEAT,
    "waiter": lock_records.WAITER,
    "lockbreak": lock_records.BREAK,
}
"""All kinds of documents, each with what its fields must fit."""

_COLLECTIONS = {
    "governors": "governor", "states": "state", "events": "event", "snapshots": "snapshot", "ids": "marker",
    "locks": "lock", "lockbeats": "lockbeat", "lockbreaks": "lockbreak", "waiters": "waiter", "meta": "store",
    "restores": "restore", "retired": "retired", "cleaned": "cleaned", "timers": "timer",
}  # fmt: skip
_OPEN = {"data", "causality", "context", "labels", "others", "taken_out"}
"""Fields whose keys the application or the store names: what is below them counts as one field."""

_BITS_OF_TEXT = 12
"""How many bits of the text of each document are flipped, wherever they are."""


def kind_of(path: str) -> str:
    """The kind of a document, as ``docs/format.md`` names them."""
    return _COLLECTIONS[split(path)[0].rpartition("/")[2]]


@dataclass(frozen=True)
class Row:
    """One stored document."""

    path: str
    text: bytes
    columns: dict[str, Value] = field(default_factory=dict)


class Ground(Protocol):
    """Where documents are stored, past the engine."""

    def rows(self) -> list[Row]:
        """All documents, in the order of their paths."""
        ...

    def put_text(self, path: str, text: bytes) -> None:
        """Replace the text of a document, and nothing else of it."""
        ...

    def remove(self, path: str) -> None:
        """Remove a document."""
        ...

    def copy(self, path: str, to: str) -> None:
        """Put a copy of a document in another place, instead of what is there."""
        ...

    def restore(self) -> None:
        """Make everything as it was at first."""
        ...


class MemoryGround:
    """The documents of a memory engine: there is no checksum to leave behind."""

    def __init__(self, documents: MemoryDocuments) -> None:
        self._documents = documents
        self._first = dict(documents._documents)

    def rows(self) -> list[Row]:  # noqa: D102
        return [Row(path, _bytes(each.content)) for path, each in sorted(self._first.items())]

    def put_text(self, path: str, text: bytes) -> None:  # noqa: D102
        self._put(path, self._first[path], text)

    def remove(self, path: str) -> None:  # noqa: D102
        self._documents.set(path, None)

    def copy(self, path: str, to: str) -> None:  # noqa: D102
        self._put(to, self._first[path], _bytes(self._first[path].content))

    def restore(self) -> None:  # noqa: D102
        documents = self._documents._documents
        for path in documents.keys() - self._first.keys():
            self._documents.set(path, None)
        for path, document in self._first.items():
            if documents.get(path) is not document:
                self._documents.set(path, document)

    def _put(self, path: str, document: Document, text: bytes) -> None:
        self._documents.set(path, Document(*split(path), text, document.revision, document.updated_us))


class SqliteGround:
    """The rows of a file, through a connection for which columns have no types: a damaged page has none either."""

    def __init__(self, file: str) -> None:
        self._connection = _loose(file)
        self._connection.execute("PRAGMA synchronous = OFF")
        self.tables: dict[str, list[str]] = {
            table: [name for (name,) in self.run("SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0", table)]
            for (table,) in self.run("SELECT name FROM sqlite_schema WHERE type = 'table'")
        }
        self._pragmas = {name: self._connection.pragma(name) for name in PRAGMAS}
        self._first = {
            table: self.run(f"SELECT {', '.join(columns)} FROM {table}") for table, columns in self.tables.items()
        }

    def run(self, sql: str, *values: Value) -> list[Any]:
        """The rows that a statement gives."""
        return self._connection.execute(sql, values).fetchall()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def rows(self) -> list[Row]:  # noqa: D102
        names = self.tables["documents"]
        found = [dict(zip(names, values, strict=True)) for values in self._first["documents"]]
        rows = [Row(f"{each['collection']}/{each['id']}", each["fields"].encode(), each) for each in found]
        return sorted(rows, key=lambda each: each.path)

    def put_text(self, path: str, text: bytes) -> None:  # noqa: D102
        self.set(path, "fields", text)

    def set(self, path: str, column: str, value: Value) -> None:
        """Give a column of a document's row another value; bytes stand for text, whether it is one or not."""
        cast = "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"
        self.run(f"UPDATE documents SET {column} = {cast} WHERE collection = ? AND id = ?", value, *split(path))
        assert self._connection.changes() == 1, path

    def remove(self, path: str) -> None:  # noqa: D102
        self.run("DELETE FROM documents WHERE collection = ? AND id = ?", *split(path))

    def copy(self, path: str, to: str) -> None:  # noqa: D102
        names = [each for each in self.tables["documents"] if each not in {"collection", "id"}]
        columns = ", ".join(names)
        self.remove(to)
        self.run(
            f"INSERT INTO documents (collection, id, {columns}) SELECT ?, ?, {columns} FROM documents "
            "WHERE collection = ? AND id = ?",
            *split(to),
            *split(path),
        )

    def restore(self) -> None:  # noqa: D102
        with self._connection:
            for table, rows in self._first.items():
                self.run(f"DELETE FROM {table}")
                marks = ", ".join("?" * len(self.tables[table]))
                sql = f"INSERT INTO {table} ({', '.join(self.tables[table])}) VALUES ({marks})"
                self._connection.executemany(sql, rows)
        for name, value in self._pragmas.items():
            if self._connection.pragma(name) != value:
                self._connection.pragma(name, value)


def _loose(file: str) -> apsw.Connection:
    """A connection that takes the tables for tables without types and conditions; nobody else sees them so."""
    with closing(apsw.Connection(file)) as other:
        tables = other.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetchall()
        other.pragma("writable_schema", True)
        for name, sql in tables:
            loose = re.sub(r" STRICT| NOT NULL| TEXT| INTEGER(?! PRIMARY)| CHECK \(id = 1\)", "", sql)
            other.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (loose, name)).fetchall()
        connection = apsw.Connection(file)
        connection.execute("SELECT count(*) FROM documents").fetchall()  # it reads the schema now, and keeps it
        for name, sql in tables:
            other.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql, name)).fetchall()
    return connection


PRAGMAS = ("application_id", "user_version")


@dataclass(frozen=True)
class Flip:
    """One change of what is stored.

    Attributes:
        kind: of the document, or the table.
        field: of it; ``document`` for the whole of it.
        what: what is done to it.
        path: where.
        make: does it.
        touched: the fields that differ afterwards, if what is stored is still an object.
    """

    kind: str
    field: str
    what: str
    path: str
    make: Callable[[Any], None]
    touched: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: {self.field} {self.what}"


def flips_of(ground: Ground, random: Random) -> Iterator[Flip]:
    """All flips of the documents on a ground, and of what else it has; those that are random are new each time."""
    rows = ground.rows()
    fields = {row.path: json.loads(row.text) for row in rows}
    by_kind = {kind: [each.path for each in rows if kind_of(each.path) == kind] for kind in SHAPES}
    for row in rows:
        path, kind = row.path, kind_of(row.path)
        siblings = [each for each in by_kind[kind] if each != path]
        for keys in _places(fields[path]):
            own = _at(fields[path], keys)
            others = [_at(fields[each], keys) for each in siblings if _has(fields[each], keys)]
            neighbour = random.choice([each for each in others if each != own] or [own])
            for what, edited in _edits(fields[path], keys, neighbour, random):
                yield Flip(kind, _name(keys), what, path, _putting(path, edited))
        yield from _of_text(row, kind, random)
        yield from _of_document(row, kind, siblings, fields[path], random)
    if isinstance(ground, SqliteGround):
        yield from _of_columns(rows, random)
        yield from _of_counter(ground, random)


def _places(value: Any, *parents: str | int) -> Iterator[tuple[str | int, ...]]:
    """The keys that lead to each value of a document, those that hold others included."""
    items: Sequence[tuple[str | int, Any]] = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, each in items:
        yield (*parents, key)
        yield from _places(each, *parents, key)


def _name(keys: Sequence[str | int]) -> str:
    """The field that keys lead to; what an application names is not told apart."""
    names: list[str] = []
    for key in keys:
        if isinstance(key, int):
            continue
        names.append(key)
        if key in _OPEN:
            break
    return ".".join(names)


def _has(fields: Any, keys: Sequence[str | int]) -> bool:
    try:
        _at(fields, keys)
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _at(fields: Any, keys: Sequence[str | int]) -> Any:
    for key in keys:
        fields = fields[key]
    return fields


def _edits(fields: dict[str, Any], keys: Sequence[str | int], neighbour: Any, random: Random) -> Iterator[Any]:
    """The document with this value changed, in every way, and what was done."""
    own = _at(fields, keys)
    changes = {**_changed(own, random), "is that of a neighbour": neighbour, **_OF_OTHER_TYPES}
    tried = [json.dumps(own)]
    for what, value in changes.items():
        text = json.dumps(value)
        if text not in tried:
            tried.append(text)
            yield what, _with(fields, keys, value)
    yield "removed", _with(fields, keys)
    if isinstance(keys[-1], str):
        yield "renamed", {**_with(fields, keys), f"{keys[-1]}_": own}
        for other, value in _at(fields, keys[:-1]).items():
            if other != keys[-1] and type(value) is type(own) and value != own:
                swapped = _with(_with(fields, keys, value), (*keys[:-1], other), own)
                yield f"swapped with {other}", swapped


_OF_OTHER_TYPES: dict[str, Any] = {
    "is null": None, "is a number": 1, "is a float": 1.5, "is true": True, "is empty text": "",
    "is an empty object": {}, "is an empty array": [], "is an object": {"a": 1}, "is an array": ["a"],
}  # fmt: skip


def _changed(value: Any, random: Random) -> dict[str, Any]:
    """Other values of the same type, and the same value as another type."""
    if isinstance(value, bool):
        return {"turned": not value, "as a number": int(value), "as text": json.dumps(value)}
    if isinstance(value, int | float):
        bits = {f"bit {bit} flipped": int(value) ^ 1 << bit for bit in {0, random.randrange(1, 48), 62}}
        other = float(value) if isinstance(value, int) else int(value)
        return {
            **bits, "plus one": value + 1, "minus one": value - 1, "negative": -value - 1, "zero": 0,
            "as text": str(value), "as the other number": other, "beyond 64 bits": 2**64,
        }  # fmt: skip
    if isinstance(value, str):
        return _changed_text(value, random)
    if isinstance(value, list):
        return {"without its last": value[:-1], "with its last twice": value + value[-1:], "turned round": value[::-1]}
    if isinstance(value, dict):
        return {"with one more": {**value, "one-more": 1}, "without its last": dict(list(value.items())[:-1])}
    return {}


def _changed_text(value: str, random: Random) -> dict[str, Any]:
    found = {"longer": value + "0", "shorter": value[:-1], "upper case": value.upper(), "twice": 2 * value}
    for n in range(2):
        at = random.randrange(len(value)) if value else 0
        flipped = chr(ord(value[at]) ^ 1 << random.randrange(6)) if value else "0"
        found[f"character {n}"] = value[:at] + flipped + value[at + 1 :]
    if value[:1] in ("{", "["):  # JSON as text: the same, written in another way, and another one of its numbers
        found["with a space"] = value[0] + " " + value[1:]
        numbers = [at for at, each in enumerate(value) if each.isdigit()]
        if numbers:
            at = random.choice(numbers)
            found["another digit"] = value[:at] + str((int(value[at]) + 1) % 10) + value[at + 1 :]
    return found


_REMOVED = object()


def _with(fields: Any, keys: Sequence[str | int], value: Any = _REMOVED) -> Any:
    """The document with another value there, or without it."""
    key, rest = keys[0], keys[1:]
    copied = list(fields) if isinstance(fields, list) else dict(fields)
    if rest:
        copied[key] = _with(fields[key], rest, value)
    elif value is _REMOVED:
        del copied[key]
    else:
        copied[key] = value
    return copied


def _putting(path: str, fields: Any) -> Callable[[Ground], None]:
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
    return lambda ground: ground.put_text(path, text)


def _of_text(row: Row, kind: str, random: Random) -> Iterator[Flip]:
    """Flips of the text as bytes: single bits, and its end."""
    for _ in range(_BITS_OF_TEXT):
        at, bit = random.randrange(len(row.text)), random.randrange(8)
        text = row.text[:at] + bytes([row.text[at] ^ 1 << bit]) + row.text[at + 1 :]
        what = f"bit {bit} of byte {at}"
        yield Flip(kind, "text", what, row.path, _putting_text(row.path, text), _differing(row.text, text))
    at = random.randrange(len(row.text))
    for what, text in {
        "cut": row.text[:at], "empty": b"", "null": b"null", "twice": 2 * row.text, "deep": b"[" * 20_000,
        "with zeros": row.text[:at] + b"\0" * (len(row.text) - at), "with a space": row.text + b" ",
    }.items():  # fmt: skip
        yield Flip(kind, "text", what, row.path, _putting_text(row.path, text))


def _differing(text: bytes, other: bytes) -> tuple[str, ...]:
    """The fields in which two texts differ; empty if one of them is not an object."""
    try:
        one, two = json.loads(text), json.loads(other)
        return tuple(sorted(each for each in {*one, *two} if one.get(each, _REMOVED) != two.get(each, _REMOVED)))
    except (ValueError, AttributeError, TypeError):
        return ()


def _putting_text(path: str, text: bytes) -> Callable[[Ground], None]:
    return lambda ground: ground.put_text(path, text)


def _of_document(row: Row, kind: str, siblings: list[str], fields: Any, random: Random) -> Iterator[Flip]:
    """Flips of a document as a whole."""
    path = row.path
    collection, document_id = split(path)
    yield Flip(kind, "document", "removed", path, lambda ground: ground.remove(path))
    yield Flip(kind, "document", "has one field more", path, _putting(path, {**fields, "one_more": 1}))
    places = {f"{collection}/{document_id}2", f"{collection}/%", path.replace("000000000002", "000000000009")} - {path}
    for place in sorted(places):
        yield Flip(kind, "document", "copied to a new place", path, _copying(path, place))
    for other in random.sample(siblings, min(3, len(siblings))):
        yield Flip(kind, "document", "copied over another", path, _copying(path, other))
        yield Flip(kind, "document", "swapped with another", path, _swapping(path, other))


def _copying(path: str, to: str) -> Callable[[Ground], None]:
    return lambda ground: ground.copy(path, to)


def _swapping(path: str, other: str) -> Callable[[Ground], None]:
    def make(ground: Ground) -> None:
        if isinstance(ground, MemoryGround):
            ground.copy(path, other)
            ground.copy(other, path)
        else:
            collection = split(path)[0]
            ground.copy(path, f"{collection}/between")
            ground.copy(other, path)
            ground.copy(f"{collection}/between", other)
            ground.remove(f"{collection}/between")

    return make


def _of_columns(rows: list[Row], random: Random) -> Iterator[Flip]:
    """Flips of every column of the table of documents."""
    for kind, of_kind in groupby(sorted(rows, key=lambda each: kind_of(each.path)), lambda each: kind_of(each.path)):
        group = list(of_kind)
        for row in group:
            neighbour = random.choice(group)
            for column, own in row.columns.items():
                changes = {**_changed(own, random), "is that of a neighbour": neighbour.columns[column]}
                changes |= _OF_OTHER_COLUMNS
                if isinstance(own, str):
                    changes["ends without UTF-8"] = own.encode() + b"\xff"
                if column == "collection" and "bank" in own:
                    changes["has a name without UTF-8"] = own.encode().replace(b"bank", b"ban\xff")
                for what, value in changes.items():
                    if type(value) in (dict, list) or (type(value), value) == (type(own), own):
                        continue
                    yield Flip(kind, f"column {column}", what, row.path, _setting(row.path, column, value))


_OF_OTHER_COLUMNS: dict[str, Any] = {
    "is null": None, "is a number": 1, "is a float": 1.5, "is empty text": "", "is bytes": memoryview(b"\xff\x00"),
    "is not UTF-8": b"a\xff",
}  # fmt: skip


def _setting(path: str, column: str, value: Any) -> Callable[[Any], None]:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        value = float(value)
    if isinstance(value, str):
        value = value.encode(errors="surrogatepass")
    return lambda ground: ground.set(path, column, value)


def _of_counter(ground: SqliteGround, random: Random) -> Iterator[Flip]:
    """Flips of the tables beside that of documents, and of the numbers that say what file it is."""
    for table, columns in ground.tables.items():
        if table == "documents":
            continue
        [row] = ground.run(f"SELECT {', '.join(columns)} FROM {table}")
        for column, own in zip(columns, row, strict=True):
            for what, value in {**_changed(own, random), **_OF_OTHER_COLUMNS}.items():
                sql = f"UPDATE {table} SET {column} = ?"
                yield Flip(table, f"column {column}", what, table, _running(sql, value))
        yield Flip(table, "row", "removed", table, _running(f"DELETE FROM {table}"))
        names = ", ".join(columns[1:])
        twice = f"INSERT INTO {table} ({names}) SELECT {names} FROM {table}"
        yield Flip(table, "row", "twice", table, _running(twice))
    for name in PRAGMAS:  # a lesser format is not among them: the file would be upgraded
        for what, value in {"plus one": 1, "bit flipped": 1 << random.randrange(4, 24)}.items():
            yield Flip("pragma", name, what, name, _adding(name, value))


def _running(sql: str, *values: Any) -> Callable[[SqliteGround], None]:
    def make(ground: SqliteGround) -> None:
        given = [float(each) if isinstance(each, int) and not -(2**63) <= each < 2**63 else each for each in values]
        ground.run(sql, *given)

    return make


def _adding(name: str, number: int) -> Callable[[SqliteGround], None]:
    def make(ground: SqliteGround) -> None:
        [(value,)] = ground.run(f"PRAGMA {name}")
        ground.run(f"PRAGMA {name} = {value + number}")

    return make


def _bytes(content: Any) -> bytes:
    assert isinstance(content, bytes)
    return content
