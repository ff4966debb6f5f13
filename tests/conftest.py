"""What all tests share: the engines under test, a clock set by hand, and a printed seed."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tai_state.engines.memory import MemoryEngine
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tai_state.engines.api import Engine
    from tai_state.values.times import Clock

settings.register_profile("ci", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@dataclass(frozen=True)
class EngineUnderTest:
    """One engine: ``make`` gives it over the store in a folder; the same folder, the same store."""

    name: str
    durable: bool
    make: Callable[[Path, Clock], Engine]


ENGINES = (
    EngineUnderTest("memory", False, lambda _, clock: MemoryEngine(clock)),
    EngineUnderTest("sqlite", True, lambda folder, clock: SqliteEngine(str(folder / "store.db"), clock)),
)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose Hypothesis's seed here, where it is not given, so that it can be printed."""
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = secrets.randbelow(2**32)


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
