"""The engine on a Firestore database: it is opened and closed here, and used in one event loop of one process only."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote

from tai_state.engines.api import (
    NOT_OPEN,
    OPEN_ALREADY,
    Capabilities,
    Committed,
    Document,
    DocumentChange,
    Moment,
    Reading,
    Scan,
    Write,
)
from tai_state.engines.loops import is_in_trio
from tai_state.engines.paging import Paged
from tai_state.errors import CorruptDocument, StoreUnusable, UnknownStore

if TYPE_CHECKING:
    from tai_state.engines.firestore.connection import Connection

EMULATOR: Final = "FIRESTORE_EMULATOR_HOST"
"""The environment variable with an emulator's host and port; Google's libraries read it too."""

_MIB: Final = 1024 * 1024
_REQUEST_BYTES_MAX: Final = 10 * _MIB
_REQUEST_BYTES_MAX_EMULATOR: Final = 4 * _MIB
_ROOM_BYTES: Final = _MIB // 2
"""The room that a request needs for the names of documents and fields, beside their JSON."""
_DOCUMENT_BYTES_MAX: Final = _MIB - 8 * 1024
"""The limit is 1 MiB, and Firestore counts a document's name, up to 6 KiB, towards it."""
_OPERATIONS_MAX: Final = 5_000
"""Firestore itself sets no limit; this many are known to work."""
_MOMENT_SECONDS: Final = 59 * 60
"""How long is read as of one time. Firestore keeps for an hour what was."""
_OVER: Final = "Firestore keeps for an hour what documents were, and reading took longer: read less at once"


class FirestoreEngine:
    """See :class:`~tai_state.engines.api.Engine`. Runs under asyncio only.

    Args:
        project: the id of the project.
        database: the id of the database in it.
    """

    def __init__(self, project: str, database: str = "(default)") -> None:
        self._project = project
        self._database = database
        self._emulator = os.environ.get(EMULATOR) or None
        self._request_bytes_max = _REQUEST_BYTES_MAX_EMULATOR if self._emulator else _REQUEST_BYTES_MAX
        self._capabilities = Capabilities(
            name="firestore",
            durable=True,
            processes=True,
            shared_clock=True,
            max_ops_per_commit=_OPERATIONS_MAX,
            max_bytes_per_commit=self._request_bytes_max - _ROOM_BYTES,
            max_document_bytes=_DOCUMENT_BYTES_MAX,
        )
        self._is_entered = False
        self._connection: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    @property
    def capabilities(self) -> Capabilities:  # noqa: D102
        return self._capabilities

    def __str__(self) -> str:
        """The store's address."""
        return f"firestore://{quote(self._project, safe='')}/{quote(self._database, safe='()')}"

    def __repr__(self) -> str:
        where = f", at the emulator on {self._emulator}" if self._emulator else ""
        return f"<{type(self).__name__} {self}{where}, {'closed' if self._connection is None else 'open'}>"

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            UnknownStore: the extra is not installed.
            StoreUnusable: there are no credentials.
            RuntimeError: the engine is already open, or the event loop is not asyncio's, or this process was forked
                from one that used Firestore.
        """
        if self._is_entered:
            raise RuntimeError(OPEN_ALREADY)
        try:
            from tai_state.engines.firestore import channels, connection, driver  # noqa: PLC0415 - half a second
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in {"google", "grpc"}:
                raise
            raise UnknownStore(
                "a store on Firestore needs the extra firestore", 'run: pip install "tai-state[firestore]"'
            ) from error
        driver.check_process()
        self._loop = _running_loop()
        address = channels.Address(self._project, self._database, self._emulator)
        self._is_entered = True
        try:
            self._connection = await connection.open_connection(address, self._capabilities, self._request_bytes_max)
        except BaseException:
            self._is_entered = False
            raise
        self._process = os.getpid()
        return self

    async def __aexit__(self, *exc: object) -> None:
        connection, self._connection = self._connection, None
        self._is_entered = False
        if connection is not None and self._process == os.getpid():
            await connection.aclose()

    async def read(self, paths: Sequence[str]) -> Reading:  # noqa: D102
        return await self._opened().read(paths)

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        return self._opened().scan(scan)

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        return await self._opened().commit(writes)

    def watch(self, *targets: str) -> AbstractAsyncContextManager[AsyncIterator[DocumentChange]]:  # noqa: D102
        return self._opened().watch(targets)

    @asynccontextmanager
    async def moment(self) -> AsyncGenerator[Moment, None]:
        """See :class:`~tai_state.engines.api.Engine`. A moment lasts an hour: Firestore keeps what was for as long."""
        yield _Moment(self._opened, (await self.read([])).time_us)

    async def self_check(self) -> Sequence[CorruptDocument]:  # noqa: D102
        self._opened()
        return ()

    async def missing(self, collection: str) -> Sequence[str]:
        """See :class:`~tai_state.engines.api.Engine`; this reads the names of all documents of the collection."""
        return await self._opened().missing(collection)

    def _opened(self) -> Connection:
        """The connection, if the caller may use it.

        Raises:
            RuntimeError: the caller may not use it; the message says why.
        """
        if self._connection is None:
            raise RuntimeError(NOT_OPEN)
        if self._process != os.getpid():
            raise RuntimeError("the store was opened before this process was forked: open another one in this process")
        if self._loop is not _running_loop():
            raise RuntimeError("the store was opened in another event loop: open one in each")
        return self._connection


class _Moment:
    """What was at a time by Firestore's clock."""

    def __init__(self, opened: Callable[[], Connection], at_us: int) -> None:
        self._opened = opened
        self._at_us = at_us
        self._until = time.monotonic() + _MOMENT_SECONDS

    async def read(self, paths: Sequence[str]) -> Reading:
        return await self._lasting().read(paths, self._at_us)

    def scan(self, scan: Scan) -> Paged[Document]:
        return self._lasting().scan(scan, self._at_us)

    def _lasting(self) -> Connection:
        if time.monotonic() >= self._until:
            raise StoreUnusable("read", "MOMENT_OVER", _OVER)
        return self._opened()


def _running_loop() -> asyncio.AbstractEventLoop:
    if is_in_trio():
        raise RuntimeError("a store on Firestore works with asyncio only, like Google's library")
    return asyncio.get_running_loop()
