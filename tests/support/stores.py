"""Stores and looks behind them, for the tests of everything above the waist."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any, Protocol, Self, TypeVar

import msgspec

from tai_state import ChangeMetadata, StateStore, StoreUnavailable
from tai_state.engines.api import Capabilities, Committed, Delete, Document, Engine, Moment, Put, Reading, Scan, Write
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.paging import Paged, mapped
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.streams.identity import StoreRecord
from tai_state.streams.layout import Layout
from tai_state.streams.settings import Settings
from tai_state.testing import ManualClock
from tai_state.values.times import WallClock

T = TypeVar("T")

METADATA = ChangeMetadata("tester", "a test", {"ticket": 7})
STORE_ID = "00000000000000aa"
GOVERNOR = "bank"


def settings(clock: ManualClock, **changes: Any) -> Settings:
    """Settings under which nothing sleeps and ids are numbered, so that two runs give the same documents."""
    ids = count(1)
    return Settings(
        **{
            "clock": clock,
            "timeout_seconds": 5.0,
            "jitter": lambda: 0.0,
            "new_id": lambda: f"made-{next(ids)}",
            **changes,
        }
    )


def make_store(engine: Engine, clock: ManualClock, *, layout: Layout | None = None, **changes: Any) -> StateStore:
    """A store over an engine, not yet opened."""
    return StateStore(engine, layout or Layout(), settings(clock, **changes))


async def fix_identity(engine: Engine, store_id: str = STORE_ID, layout: Layout | None = None) -> None:
    """Give an empty store this id, so that its clocks and digests are the same in each run."""
    record = StoreRecord(store_id, 1)
    await engine.commit([Put((layout or Layout()).store, msgspec.to_builtins(record))])


async def collected(values: AsyncIterator[T]) -> list[T]:
    """All that an asynchronous iterator gives."""
    return [value async for value in values]


async def fields_at(engine: Engine, path: str) -> dict[str, Any]:
    """The fields of a document that is there."""
    [document] = (await engine.read([path])).documents
    assert document is not None, path
    return document.fields()


async def edit(engine: Engine, path: str, **changes: Any) -> None:
    """Change some fields of a document behind the store's back."""
    await engine.commit([Put(path, {**await fields_at(engine, path), **changes})])


async def dump(engine: Engine, governor_id: str = GOVERNOR) -> dict[str, dict[str, Any]]:
    """Every document of a governor by its path, without the engine's own tokens and times."""
    governor = Layout().governor(governor_id)
    [own] = (await engine.read([governor])).documents
    found = {} if own is None else {own.path: own.fields()}
    for name in ("cleaned", "events", "ids", "retired", "snapshots", "states"):
        async for document in engine.scan(Scan(f"{governor}/{name}")):
            found[document.path] = document.fields()
    return found


@dataclass
class Counts:
    """Calls of an engine, and the documents that went through them."""

    commits: list[Sequence[Write]] = field(default_factory=list)
    reads: int = 0
    scans: int = 0
    documents: int = 0

    @property
    def calls(self) -> int:
        """Calls of all verbs."""
        return len(self.commits) + self.reads + self.scans


class AroundEngine:
    """An engine around another one: what it does not do itself, the other one does.

    What it does itself it also does with what is read from a moment: only the engine inside is another one there.
    """

    __slots__ = ("__dict__", "_engine")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @asynccontextmanager
    async def moment(self) -> AsyncGenerator[Moment, None]:  # noqa: D102
        async with self._engine.moment() as inner:
            around: Any = object.__new__(type(self))
            around.__dict__ = self.__dict__
            around._engine = inner
            yield around

    async def __aenter__(self) -> Self:
        await self._engine.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._engine.__aexit__(*exc)


class Killed(AroundEngine):
    """Takes few writes in a commit, and fails after one that ends with a document of this path."""

    def __init__(self, engine: Engine, last: str) -> None:
        super().__init__(engine)
        self._last = last
        self._is_over = False

    @property
    def capabilities(self) -> Capabilities:
        """The engine's, but that each document is a commit of its own."""
        return replace(self._engine.capabilities, max_ops_per_commit=1)

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        if self._is_over:
            raise StoreUnavailable("commit", "TEST")
        committed = await self._engine.commit(writes)
        self._is_over = any(isinstance(each, Put) and each.path.endswith(self._last) for each in writes)
        return committed


class Opened(AroundEngine):
    """An engine that is open already, and that somebody else closes."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass


class CountingEngine(AroundEngine):
    """Counts what goes to the engine inside."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.counts = Counts()

    def reset(self) -> None:
        """Count from nothing again."""
        self.counts = Counts()

    async def read(self, paths: Sequence[str]) -> Any:  # noqa: D102
        self.counts.reads += 1
        reading = await self._engine.read(paths)
        self.counts.documents += sum(document is not None for document in reading.documents)
        return reading

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        self.counts.scans += 1
        documents = self._engine.scan(scan)

        async def fetch() -> Sequence[Document] | None:
            async for document in documents:
                self.counts.documents += 1
                return [document]
            return None

        return Paged(fetch)

    async def commit(self, writes: Sequence[Write]) -> Any:  # noqa: D102
        self.counts.commits.append(writes)
        return await self._engine.commit(writes)


class Kind(Protocol):
    """Which engine; as in the fixtures that all tests share."""

    @property
    def durable(self) -> bool:
        """Whether documents stay when the engine is closed."""
        ...

    @property
    def in_files(self) -> bool:
        """Whether they stay in the folder, so that its copy holds them too."""
        ...

    @property
    def has_own_clock(self) -> bool:
        """Whether the engine goes by a clock that nobody here can set."""
        ...

    @property
    def make(self) -> Callable[[Path, WallClock], Engine]:
        """Gives an engine over the documents in a folder."""
        ...


@dataclass(frozen=True)
class _Kind:
    durable: bool
    in_files: bool
    has_own_clock: bool
    make: Callable[[Path, WallClock], Engine]


MEMORY: Kind = _Kind(False, False, False, lambda _, clock: MemoryEngine(clock))
SQLITE: Kind = _Kind(True, True, False, lambda folder, clock: SqliteEngine(str(folder / "store.db"), clock))


class Dated(AroundEngine):
    """Says the times of a clock that can be set, in place of the engine's own.

    Args:
        engine: the one that does the work.
        clock: whose times are said.
        dates: when each document was last written through such an engine, by its path.
    """

    def __init__(self, engine: Engine, clock: WallClock, dates: dict[str, int]) -> None:
        super().__init__(engine)
        self._clock = clock
        self._dates = dates

    async def read(self, paths: Sequence[str]) -> Reading:  # noqa: D102
        found = (await self._engine.read(paths)).documents
        return Reading(tuple(each and self._dated(each) for each in found), self._clock.now_us())

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        return mapped(self._engine.scan(scan), lambda page: map(self._dated, page))

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        committed = await self._engine.commit(writes)
        now = self._clock.now_us()
        for write in writes:
            if isinstance(write, Put):
                self._dates[write.path] = now
            elif isinstance(write, Delete):
                self._dates.pop(write.path, None)
        return Committed(committed.revision, now)

    def _dated(self, document: Document) -> Document:
        updated = self._dates.get(document.path, document.updated_us)
        return msgspec.structs.replace(document, updated_us=updated)


class Place:
    """Where documents stay when a store is closed: gives engines over the same documents, not yet opened.

    Its clock stands still until it is moved, and ids are numbered, so that two places in which the same happens hold
    the same documents.
    """

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.clock = ManualClock()
        self.folder = folder
        self._ids = count(1)
        dates: dict[str, int] = {}
        self._make = lambda: (
            Dated(kind.make(folder, self.clock), self.clock, dates)  # type: ignore[return-value]
            if kind.has_own_clock
            else kind.make(folder, self.clock)
        )
        self._memory: MemoryEngine | None = None if kind.durable else self._make()  # type: ignore[assignment]

    def skip_ids(self) -> None:
        """Give other ids from now on than the ones that what was copied here may hold."""
        self._ids = count(1_001)

    def engine(self) -> Engine:
        """Another engine over the same documents."""
        return self._make() if self._memory is None else self._memory.beside()

    def store(self, engine: Engine | None = None, **changes: Any) -> StateStore:
        """A store over another engine (or the one given), not yet opened."""
        return make_store(
            engine or self.engine(), self.clock, **{"new_id": lambda: f"made-{next(self._ids)}", **changes}
        )


class Places:
    """Empty places, as many as wanted; in memory where the system has a folder there: nothing here is about disks."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._numbers = count()
        self._templates: dict[str, Path] = {}

    def __enter__(self) -> Self:
        shared = Path("/dev/shm")
        self._temporary = TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None)
        self._folder = Path(self._temporary.name)
        return self

    def __exit__(self, *exc: object) -> None:
        self._temporary.cleanup()

    def new(self) -> Place:
        """An empty place."""
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        return Place(self._kind, folder)

    async def prepared(self, name: str, prepare: Callable[[Place], Awaitable[None]]) -> Place:
        """A place with something in it. What stays in files is written once for each name and then copied."""
        if not self._kind.in_files:
            place = self.new()
            await prepare(place)
            return place
        if name not in self._templates:
            template = self.new()
            await prepare(template)
            self._templates[name] = template.folder
        folder = self._folder / str(next(self._numbers))
        copytree(self._templates[name], folder)
        place = Place(self._kind, folder)
        place.skip_ids()
        return place
