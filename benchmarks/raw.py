"""SQLite itself, through the asynchronous connections of ``apsw``: the least that an asynchronous store could do.

The tables, indexes, settings and rows are those of a store that this library made. Nothing is checked, hashed or
planned, and only the two rows are written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import apsw.aio
import msgspec
from work import Measured, timed

PAGE = 512
"""How many rows one hop to the connection's thread fetches."""

Row = tuple[Any, ...]

_EVENTS = "SELECT {columns} FROM documents WHERE collection LIKE '%/events' ORDER BY id LIMIT ?"
_STATE = "SELECT {columns} FROM documents WHERE collection LIKE '%/states'"
_AFTER = "SELECT id, fields FROM documents WHERE collection = ? AND id > ? ORDER BY id LIMIT ?"
_decode = msgspec.json.Decoder().decode


class Copied:
    """What the writing contestant needs from a file that this library made, read once.

    Args:
        path: the path of the file.
        count: how many of its events to read.
    """

    def __init__(self, path: Path, count: int) -> None:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        self.tables = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")]
        info = connection.execute("PRAGMA table_xinfo(documents)").fetchall()
        self.columns = [row[1] for row in info if row[6] == 0]
        columns = ", ".join(self.columns)
        self.events: list[Row] = connection.execute(_EVENTS.format(columns=columns), (count,)).fetchall()
        self.state: Row = connection.execute(_STATE.format(columns=columns)).fetchall()[0]
        connection.close()

    def statements(self) -> tuple[str, str]:
        """The two writes of a transition: insert the event, and replace the state."""
        columns = ", ".join(self.columns)
        insert = f"INSERT INTO documents ({columns}) VALUES ({', '.join('?' * len(self.columns))})"
        changed = [name for name in self.columns if name not in ("collection", "id")]
        updates = ", ".join(f"{name} = excluded.{name}" for name in changed)
        return insert, f"{insert} ON CONFLICT (collection, id) DO UPDATE SET {updates}"


def write(path: Path, copied: Copied) -> Measured:
    """Write two rows in one transaction for each transition, by one function that runs in the connection's thread.

    That takes one hop to the thread. A hop for each statement would be slower: it takes four.
    """
    insert, upsert = copied.statements()
    revision = copied.columns.index("revision")

    def transition(connection: apsw.Connection, event: Row, state: Row) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(insert, event)
        connection.execute(upsert, state)
        connection.execute("COMMIT")

    async def run(connection: Any) -> Measured:
        await connection.pragma("journal_mode", "wal")
        await connection.pragma("synchronous", "full")
        for sql in copied.tables:
            await connection.execute(sql)
        before, after = copied.state[:revision], copied.state[revision + 1 :]
        states = [(*before, number, *after) for number, _ in enumerate(copied.events)]
        with timed(len(copied.events)) as measured:
            for event, state in zip(copied.events, states, strict=True):
                await connection.async_run(transition, connection, event, state)
        return measured

    return _run(path, run)


def rows_streamed(path: Path, count: int) -> Measured:
    """Read the rows with ``async for``, and decode the fields of each event and the state in them."""

    async def run(connection: Any) -> Measured:
        collection = await _collection(connection)
        with timed(count) as measured:
            found = 0
            async for _, fields in await connection.execute(_AFTER, (collection, "", count)):
                _decode(_decode(fields)["to_state"])
                found += 1
        return _complete(measured, found)

    return _run(path, run)


def rows_by_page(path: Path, count: int) -> Measured:
    """Read the rows with one function for each page, run in the connection's thread, and decode them likewise."""

    def page(connection: apsw.Connection, collection: str, after: str) -> Sequence[Row]:
        return connection.execute(_AFTER, (collection, after, PAGE)).fetchall()

    async def run(connection: Any) -> Measured:
        collection = await _collection(connection)
        with timed(count) as measured:
            found = 0
            after = ""
            while rows := await connection.async_run(page, connection, collection, after):
                for after, fields in rows:  # noqa: B007
                    _decode(_decode(fields)["to_state"])
                found += len(rows)
        return _complete(measured, found)

    return _run(path, run)


async def _collection(connection: Any) -> str:
    cursor = await connection.execute("SELECT collection FROM documents WHERE collection LIKE '%/events' LIMIT 1")
    found: str = await cursor.get
    return found


def _complete(measured: Measured, found: int) -> Measured:
    if found != measured.count:
        raise AssertionError(f"{found} rows were read, not {measured.count}")
    return measured


def _run(path: Path, work: Callable[[Any], Awaitable[Measured]]) -> Measured:
    async def run() -> Measured:
        with apsw.aio.contextvar_set(apsw.async_controller, apsw.aio.AsyncIO):
            connection = await apsw.Connection.as_async(str(path))
        try:
            return await work(connection)
        finally:
            await connection.aclose()

    return asyncio.run(run())
