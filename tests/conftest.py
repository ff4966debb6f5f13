"""What all tests share: the engines under test, a clock set by hand, and a printed seed."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from mockfirestore import MockFirestore

from pytest_tai_state import without_emulator
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.errors import EmulatorNotFound
from tai_state.testing import ManualClock
from tai_state.testing.emulator import Emulator, running_emulator
from tai_state.testing.mockfirestore import MockFirestoreEngine
from tai_state.testing.moment_checks import check_a_moment_tears_no_commit
from tai_state.testing.read_checks import check_read_is_one_snapshot

from .support.firestore import looked_up
from .support.stores import MEMORY, Place, Places

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from tai_state import StateStore
    from tai_state.engines.api import Committed, Engine, Write
    from tai_state.values.times import WallClock

settings.register_profile("ci", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

if os.access("/dev/shm", os.W_OK):
    # Few tests are about disks, and those that are trace or inject what a disk does: the others need not wait for one.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")


@dataclass(frozen=True)
class EngineUnderTest:
    """One engine: ``make`` gives it over the store in a folder; the same folder, the same store.

    Attributes:
        name: of the engine.
        durable: its stores can be opened again.
        in_files: its documents are in the folder.
        has_own_clock: it goes by a clock that nobody here can set.
        tears: it can show one document of a commit before another, as the emulator does and Firestore does not.
        loops: the event loops that it runs under.
        make: see above.
    """

    name: str
    durable: bool
    in_files: bool
    has_own_clock: bool
    tears: bool
    loops: tuple[str, ...]
    make: Callable[[Path, WallClock], Engine]


_RUNNING = ExitStack()
_SECRET = secrets.token_hex(8)


@cache
def emulator_host() -> str:
    """The address of the emulator that all tests share, started when the first one asks."""
    try:
        return _RUNNING.enter_context(running_emulator()).host
    except EmulatorNotFound as error:
        without_emulator(error)


@pytest.fixture(scope="session")
def firestore_emulator() -> Iterator[Emulator]:
    """The shared emulator, its address in the environment, in place of one of the plugin's own."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(EMULATOR, emulator_host())
        yield Emulator(emulator_host())


class _OnEmulator(FirestoreEngine):
    """The engine without an emulator's fault: see :func:`looked_up`."""

    async def commit(self, writes: Sequence[Write]) -> Committed:
        return await looked_up(super().commit, self.read, writes)


def _firestore(folder: Path, _: WallClock) -> Engine:
    """The engine on a project that belongs to a folder: the emulator makes it when it is first named."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(EMULATOR, emulator_host())
        return _OnEmulator(_project(folder))


@pytest.fixture
def firestore(tmp_path: Path) -> Callable[..., FirestoreEngine]:
    """Gives an engine, not yet opened, over a project of this test's own, or the one that is named."""

    def make(project: str = "", database: str = "(default)") -> FirestoreEngine:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(EMULATOR, emulator_host())
            return _OnEmulator(project or _project(tmp_path), database)

    return make


def _project(folder: Path) -> str:
    return f"test-{hashlib.sha256(f'{_SECRET} {folder}'.encode()).hexdigest()[:20]}"


_BOTH = ("asyncio", "trio")
ENGINES = (
    EngineUnderTest("memory", False, False, False, False, _BOTH, lambda _, clock: MemoryEngine(clock)),
    EngineUnderTest(
        "sqlite", True, True, False, False, _BOTH, lambda folder, clock: SqliteEngine(str(folder / "store.db"), clock)
    ),
    EngineUnderTest("firestore", True, False, True, True, ("asyncio",), _firestore),
    EngineUnderTest(
        "mockfirestore", False, False, False, False, _BOTH, lambda _, clock: MockFirestoreEngine(MockFirestore(), clock)
    ),
)


def pytest_unconfigure() -> None:
    """End the emulator."""
    _RUNNING.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of an engine under an event loop that it does not run under, or of what it cannot show."""
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        engine = parameters.get("engine_under_test")
        if engine and engine.tears and parameters.get("check") in _WHOLE:
            item.add_marker(pytest.mark.skip(reason=_TEARS))
    kept = [item for item in items if _can_run(item)]
    config.hook.pytest_deselected(items=[item for item in items if not _can_run(item)])
    items[:] = kept


_WHOLE = (check_read_is_one_snapshot, check_a_moment_tears_no_commit)
_TEARS = "the emulator shows a commit document by document; Firestore shows it at one moment"


def _can_run(item: pytest.Item) -> bool:
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    loops = {each for each in parameters if isinstance(each, str)} & set(_BOTH)
    return all(loops <= set(each.loops) for each in parameters if isinstance(each, EngineUnderTest))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose Hypothesis's seed, where none is given, so that it can be printed; let tests' processes be interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, _ignored)
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = secrets.randbelow(2**32)


def _ignored(*_: object) -> None:
    """Ignore a signal, as it was ignored when the suite was started: by ``&`` in a script, or by ``nohup``.

    Processes inherit what is ignored, but no handlers: those that tests start can be interrupted.
    """


def pytest_report_header(config: pytest.Config) -> str:
    """The seed, to run the same examples again."""
    return f"hypothesis: repeat with --hypothesis-seed={config.getoption('--hypothesis-seed')}"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Each asynchronous test runs under both event loops."""
    return request.param


@pytest.fixture
def clock() -> ManualClock:
    """A clock that moves by a microsecond with each look, and otherwise when it is told to."""
    return ManualClock(step_us=1)


@pytest.fixture(params=ENGINES, ids=lambda each: each.name)
def engine_under_test(request: pytest.FixtureRequest) -> EngineUnderTest:
    """Each engine in turn."""
    return request.param


@pytest.fixture
async def engine(engine_under_test: EngineUnderTest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Engine]:
    """An empty store, open."""
    async with engine_under_test.make(tmp_path, clock) as engine:
        yield engine


@pytest.fixture(params=[each for each in ENGINES if each.durable], ids=lambda each: each.name)
def make_durable_engine(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Callable[[], Engine]:
    """Gives an engine, not yet opened, over one and the same durable store at each call."""
    return lambda: request.param.make(tmp_path, clock)


@pytest.fixture(params=[each for each in ENGINES if each.name != "memory"], ids=lambda each: each.name)
def make_other_engine(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Callable[[], Engine]:
    """Gives an engine, not yet opened, over another empty store at each call: any but the one in memory."""
    numbers = count()

    def make() -> Engine:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return request.param.make(folder, clock)

    return make


@pytest.fixture
def places(engine_under_test: EngineUnderTest) -> Iterator[Places]:
    """Empty places for stores on each engine, as many as wanted."""
    with Places(engine_under_test) as places:
        yield places


@pytest.fixture
def place(places: Places) -> Place:
    """An empty place on each engine."""
    return places.new()


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StateStore]:
    """An open store at that place."""
    async with place.store() as store:
        yield store


@pytest.fixture
def memory_places() -> Iterator[Places]:
    """Empty places in memory, for what is decided above the engines alone."""
    with Places(MEMORY) as places:
        yield places
