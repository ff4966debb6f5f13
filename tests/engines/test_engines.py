"""Every engine passes the same examination."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tai_state import testing
from tai_state.engines.api import ABSENT, ANYTHING, PRESENT, At, Check, Delete, Put, Scan, Where, after
from tai_state.engines.memory import MemoryEngine
from tai_state.errors import CommitRefused
from tai_state.testing import ENGINE_CHECKS, LIFECYCLE_CHECKS, REOPEN_CHECKS, WRAPPER_CHECKS, ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tai_state.engines.api import Engine, Write
    from tai_state.testing.conformance import EngineCheck, ReopenCheck

    from .conftest import EngineUnderTest

pytestmark = pytest.mark.anyio


def _named(checks: tuple) -> list:
    return [pytest.param(check, id=check.__name__.removeprefix("check_")) for check in checks]


@pytest.mark.parametrize("check", _named(ENGINE_CHECKS))
async def test_engine(engine: Engine, check: EngineCheck):
    """The engine keeps the promise that the check is about."""
    await check(engine)


@pytest.mark.parametrize("check", _named(LIFECYCLE_CHECKS))
async def test_opening(engine_under_test: EngineUnderTest, tmp_path: Path, clock: ManualClock, check: EngineCheck):
    """The engine keeps the promise that the check is about when it is opened and closed."""
    await check(engine_under_test.make(tmp_path, clock))


@pytest.mark.parametrize("check", _named(REOPEN_CHECKS))
async def test_reopening(make_durable_engine: Callable[[], Engine], check: ReopenCheck):
    """The engine keeps the promise that the check is about when its store is opened again."""
    await check(make_durable_engine)


def test_the_suite_leaves_no_check_out():
    """Every check that the suite defines is in exactly one of its lists, and says what it shows."""
    defined = [
        each
        for module in pkgutil.iter_modules(testing.__path__, "tai_state.testing.")
        for name, each in vars(importlib.import_module(module.name)).items()
        if name.startswith("check_") and each.__module__ == module.name
    ]
    assert sorted((*ENGINE_CHECKS, *LIFECYCLE_CHECKS, *REOPEN_CHECKS, *WRAPPER_CHECKS), key=id) == sorted(
        defined, key=id
    )
    assert all((check.__doc__ or "").endswith(".") for check in defined)


_PATHS = ("c/a", "c/a~1", "c/é", "c/😀", "c/a/d/x", "d/a")
_FIELDS = st.fixed_dictionaries(
    {},
    optional={"at": st.sampled_from(["", "1", "é", "😀", 1, None]), "n": st.sampled_from([0, 1, True, None])},
)
_WRITE = st.tuples(
    st.sampled_from(["put", "put", "delete", "check"]),
    st.sampled_from(["absent", "present", "at", "anything"]),
    _FIELDS,
)
_COMMITS = st.lists(st.dictionaries(st.sampled_from(_PATHS), _WRITE, min_size=1, max_size=4), max_size=12)
_TEXT = st.text(st.sampled_from("a~1é😀"), max_size=2)
_SCANS = st.lists(
    st.fixed_dictionaries(
        {"start": _TEXT | _TEXT.map(after), "end": st.none() | _TEXT},
        optional={
            "by": st.just("at"),
            "limit": st.integers(0, 4),
            "where": st.lists(
                st.builds(Where, st.just("n"), st.lists(st.sampled_from([0, 1, True, None])).map(tuple)),
                max_size=2,
            ),
        },
    ),
    min_size=1,
    max_size=6,
)


async def _told(engine: Engine, commits: list[dict], scans: list[dict]) -> list[object]:
    """What an engine answers to these commits and scans, its own revisions and times left out."""
    told: list[object] = []
    seen = dict.fromkeys(_PATHS, 0)
    for commit in commits:
        writes: list[Write] = []
        for path, (kind, name, fields) in commit.items():
            require = {"absent": ABSENT, "present": PRESENT, "at": At(seen[path]), "anything": ANYTHING}[name]
            make = {"put": Put, "delete": Delete, "check": Check}[kind]
            writes.append(Put(path, fields, require) if make is Put else make(path, require))
        try:
            committed = await engine.commit(writes)
        except CommitRefused:
            told.append("refused")
            continue
        told.append("applied")
        seen |= {write.path: committed.revision for write in writes if isinstance(write, Put)}
    told += [document and document.fields() for document in (await engine.read(_PATHS)).documents]
    for scan in scans:
        told.append([(document.path, document.fields()) async for document in engine.scan(Scan("c", **scan))])
    return told


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commits=_COMMITS, scans=_SCANS)
async def test_engines_agree(make_other_engine: Callable[[], Engine], commits: list[dict], scans: list[dict]):
    """Any series of commits and scans is answered alike by the engine and by the one in memory."""
    async with make_other_engine() as engine, MemoryEngine(ManualClock()) as memory:
        assert await _told(engine, commits, scans) == await _told(memory, commits, scans)
