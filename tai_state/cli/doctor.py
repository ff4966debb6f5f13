"""The doctor: checks whether a store can be reached and used, and says what is wrong and what to do."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal, TypeAlias

import anyio.to_thread
import msgspec
import typer

from tai_state.cli.common import JsonOption, StoreOption, opened, run
from tai_state.cli.output import print_json, print_line, print_table
from tai_state.engines.api import PRESENT, Check, Scan, Where
from tai_state.engines.firestore.engine import EMULATOR
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.engines.sqlite.place import check_rights, room
from tai_state.errors import (
    Inconsistent,
    InvalidData,
    StoreNotFound,
    StoreUnavailable,
    StoreUnusable,
    TaiStateError,
    UnknownStore,
)
from tai_state.history.unfinished import unfinished_restores
from tai_state.store.addresses import Address
from tai_state.streams.settings import SystemClock
from tai_state.values.counting import counted

Status: TypeAlias = Literal["ok", "warning", "failed"]

_DRIVERS: Final[Mapping[str, tuple[str, ...]]] = {
    "sqlite": ("apsw",),
    "firestore": ("google-cloud-firestore", "grpcio", "protobuf"),
}
_MIB: Final = 1024 * 1024
_DAMAGE_MAX: Final = 3
"""How much of the damage of a file is named."""
_SKEW_SECONDS_MAX: Final = 10.0
"""Tokens fail at five minutes. Long before that, timestamps from two machines no longer show the order of changes."""
_CREDENTIALS: Final = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "DefaultCredentialsError", "RefreshError"})
_DATABASE: Final = frozenset({"NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"})
_NO_INDEX: Final = "FAILED_PRECONDITION"
_NOBODY: Final = "doctor"
"""The governor whose collections the trial queries search; it need not exist."""


class Checked(msgspec.Struct, frozen=True):
    """The outcome of one check.

    Attributes:
        check: the name of the check.
        status: ``warning`` is worth a look; with ``failed``, the store cannot be used as it is.
        message: what was found, and what to do.
    """

    check: str
    status: Status
    message: str


class Examination:
    """Runs the checks of one store, one after the other.

    Attributes:
        checks: the outcomes so far.
        exit_code: the exit code for the first check that failed; 0 if none has failed.
    """

    def __init__(self, url: str | None) -> None:
        self.checks: list[Checked] = []
        self.exit_code: int = 0
        self._url = url
        address = Address.parse(url)
        self._engine = address.engine(SystemClock(), create=False)
        self._layout = address.layout()
        self._indexed = address.indexed
        self._name = self._engine.capabilities.name
        self._emulator = os.environ.get(EMULATOR) if self._name == "firestore" else None

    async def examine(self) -> None:
        """Run the checks, in order, until a failure makes the rest impossible."""
        self._find("versions", "ok", _versions(self._name))
        if isinstance(self._engine, SqliteEngine) and os.path.isfile(self._engine.path):  # noqa: PTH113, ASYNC240
            await self._place(self._engine.path)
        try:
            async with self._engine:
                await self._reach()
                if self._name == "firestore":
                    await self._try("permissions", self._permissions)
                    await self._try("indexes", self._indexes)
                if isinstance(self._engine, SqliteEngine):
                    await self._file(self._engine)
        except TaiStateError as error:
            self._fail(_part(error), error)
        else:
            await self._try("store", self._stored)

    def _find(self, check: str, status: Status, message: str) -> None:
        self.checks.append(Checked(check, status, message))

    def _fail(self, check: str, error: TaiStateError) -> None:
        self._find(check, "failed", f"{error}{self._hint(check)}")
        self.exit_code = self.exit_code or error.exit_code

    def _hint(self, check: str) -> str:
        """Advice on reaching Firestore, which the error itself cannot give."""
        if check != "reachable" or self._name != "firestore":
            return ""
        if self._emulator:
            return f"; {EMULATOR} is set to {self._emulator}: start the emulator there, or unset it to reach Google"
        return "; check that the network, proxy and firewall allow access to firestore.googleapis.com"

    async def _try(self, check: str, examine: Callable[[], Awaitable[str]]) -> None:
        try:
            self._find(check, "ok", await examine())
        except TaiStateError as error:
            self._fail(check, error)

    async def _place(self, path: str) -> None:
        """Check whether the file of an SQLite store can be written, and whether its disk has room."""
        try:
            await anyio.to_thread.run_sync(check_rights, path)
            self._find("permissions", "ok", "this account may write the file, and in its folder")
            self._find(*_disk(*await anyio.to_thread.run_sync(room, path)))
        except StoreUnavailable as error:
            self._fail("permissions" if isinstance(error, StoreUnusable) else "disk", error)

    async def _reach(self) -> None:
        """Read one document: the answer shows whether the engine can be reached and lets us in, and its time."""
        paths = [self._layout.store]
        await self._engine.read(paths)  # also connects, so that the next read is a single round trip
        before = time.time()
        started = time.monotonic()
        reading = await self._engine.read(paths)
        seconds = time.monotonic() - started
        where = f"the emulator at {self._emulator}" if self._emulator else f"the engine {self._name!r}"
        self._find("reachable", "ok", f"{where} answered in {seconds * 1_000:.1f} ms")
        if self._name == "firestore":
            how = "the emulator needs none" if self._emulator else "accepted"
            self._find("credentials", "ok", how)
            self._find("database", "ok", "the database is in native mode")
        self._find(*_clock(reading.time_us / 1e6 - before - seconds / 2))

    async def _permissions(self) -> str:
        """Try to write without changing anything; only done on Firestore."""
        path = self._layout.store
        [document] = (await self._engine.read([path])).documents
        if document is None:
            return "reading is allowed; writing can only be checked once the store exists"
        await self._engine.commit([Check(path, PRESENT)])
        return "reading and writing are allowed"

    async def _indexes(self) -> str:
        """Run queries that need an index. If one is missing, Firestore refuses even a query that would find nothing."""
        engine, layout, fields = self._engine, self._layout, self._indexed
        try:
            async for _ in engine.scan(Scan(layout.events(_NOBODY), by="timestamp", limit=1)):
                pass
            for each in [*(f"data.{name}" for name in fields), "schema"] if fields else []:
                async for _ in engine.scan(Scan(layout.states(_NOBODY), where=[Where(each, ("",))], limit=1)):
                    pass
        except StoreUnavailable as error:
            if error.code != _NO_INDEX:
                raise
            what = f"deploy the indexes that `tai-state indexes` prints, and wait until they are built ({error})"
            raise StoreUnusable("a query", "MISSING_INDEX", what) from error
        if self._emulator:
            return "the emulator needs none, so this says nothing about a database at Google"
        return f"events can be found by time, and states by {', '.join(fields) or 'id only (no field is indexed)'}"

    async def _file(self, engine: SqliteEngine) -> None:
        """Check that no process keeps an SQLite file locked, and have SQLite look for damage in all of it."""

        async def lock() -> str:
            await engine.check_lock()
            return "no other process keeps the file locked"

        if self.exit_code == 0:  # else this account may not write, or the disk is full
            await self._try("lock", lock)
        damage = await engine.self_check()
        for error in damage[:_DAMAGE_MAX]:
            self._fail("file", error)
        if len(damage) > _DAMAGE_MAX:
            more = counted(len(damage) - _DAMAGE_MAX, "finding")
            self._find("file", "failed", f"{more} more: `tai-state verify` names them")
        if not damage:
            self._find("file", "ok", "SQLite finds no damage in the file")

    async def _stored(self) -> str:
        if not self._engine.capabilities.durable:
            return f"a store on {self._name!r} starts empty and ends with its process"
        async with opened(self._url) as store:
            for restore in await unfinished_restores(store.core):
                self._fail("restore", restore)
            return f"the store exists; its id is {store.store_id}"


def _part(error: TaiStateError) -> str:
    """The check to which an error of the first read belongs."""
    code = str(error.fields().get("code", ""))
    if isinstance(error, StoreNotFound | UnknownStore):
        return "store"
    if isinstance(error, Inconsistent):
        return "file"
    if code in _CREDENTIALS:
        return "credentials"
    return "database" if code in _DATABASE or isinstance(error, InvalidData) else "reachable"


def _clock(skew_seconds: float) -> tuple[str, Status, str]:
    text = f"the engine's clock differs from this machine's by {abs(skew_seconds):.1f} s"
    if abs(skew_seconds) > _SKEW_SECONDS_MAX:
        return "clock", "warning", f"{text}: set this machine's clock, or let NTP set it"
    return "clock", "ok", text


def _disk(free: int, wanted: int) -> tuple[str, Status, str]:
    text = f"the disk has room for {free // _MIB:,} MiB"
    if free < wanted:
        return "disk", "warning", f"{text}: make room, because a backup and the log may need {-(-wanted // _MIB):,} MiB"
    return "disk", "ok", text


def _versions(engine: str) -> str:
    drivers = ", ".join(f"{each} {_version(each)}" for each in _DRIVERS.get(engine, ()))
    own = f"tai-state {version('tai-state')}, Python {platform.python_version()}"
    return f"{own}, {drivers}" if drivers else own


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def doctor(*, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Check whether a store can be used, and say what to do.

    Checks versions, permissions, room on the disk, reachability, credentials, database, clock, indexes, locks and
    damage of an SQLite file, all of which it reads, and the store itself.
    """

    async def command() -> None:
        examination = Examination(store)
        await examination.examine()
        healthy = examination.exit_code == 0
        if as_json:
            print_json({"healthy": healthy, "checks": examination.checks})
        else:
            rows = [[each.check, each.status, each.message] for each in examination.checks]
            print_table(["check", "status", "message"], rows)
            warned = any(each.status == "warning" for each in examination.checks)
            passed = "no check failed, but see the warnings above" if warned else "all checks passed"
            print_line(passed if healthy else "see the failed checks above")
        if not healthy:
            raise typer.Exit(examination.exit_code)

    run(command)
