"""Engines around other engines: nothing of the inner one is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from tai_state import ChangeMetadata, StateMachinePersister, open_store
from tai_state.engines.api import Capabilities, Check, Committed, Document, Engine, Scan, Write
from tai_state.engines.paging import Paged
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.testing import ENGINE_CHECKS, WRAPPER_CHECKS, AtCalls, FaultyEngine, ManualClock, MemoryEngine

if TYPE_CHECKING:
    from pathlib import Path

    from tai_state.errors import CorruptDocument
    from tai_state.testing.conformance import EngineCheck, WrapperCheck

pytestmark = pytest.mark.anyio


def _named(checks: tuple) -> list:
    return [pytest.param(check, id=check.__name__.removeprefix("check_")) for check in checks]


def _faultless(engine: Engine) -> FaultyEngine:
    return FaultyEngine(engine, AtCalls({}))


@pytest.mark.parametrize("check", _named(WRAPPER_CHECKS))
async def test_the_faulty_engine_is_transparent(check: WrapperCheck):
    """The engine that fails as planned hides nothing of the one inside."""
    await check(_faultless)


@pytest.mark.parametrize("check", _named(ENGINE_CHECKS))
async def test_without_a_fault_the_faulty_engine_is_like_any_other(check: EngineCheck, clock: ManualClock):
    """Around an engine that passes the examination, it passes the examination, if nothing is planned."""
    async with _faultless(MemoryEngine(clock)) as engine:
        await check(engine)


class _FindsNothing(FaultyEngine):
    async def self_check(self) -> Sequence[CorruptDocument]:
        return ()


class _SmallerThanItIs(FaultyEngine):
    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, max_ops_per_commit=1)


class _LeavesItOpen(FaultyEngine):
    async def __aexit__(self, *exc: object) -> None:
        pass


class _WritesWhateverIsRequired(FaultyEngine):
    async def commit(self, writes: Sequence[Write]) -> Committed:
        return await super().commit([each for each in writes if not isinstance(each, Check)])


class _ScansEverything(FaultyEngine):
    def scan(self, scan: Scan) -> Paged[Document]:
        return super().scan(Scan(scan.collection))


class _BeginsFromTheFirst(FaultyEngine):
    def changed(self, collection: str, after: int = 0, limit: int | None = None) -> Paged[Document]:  # noqa: ARG002
        return super().changed(collection, 0, limit)


_WRAPPERS = (
    _FindsNothing,
    _SmallerThanItIs,
    _LeavesItOpen,
    _WritesWhateverIsRequired,
    _ScansEverything,
    _BeginsFromTheFirst,
)


@pytest.mark.parametrize("wrapper", _WRAPPERS)
async def test_a_wrapper_that_hides_something_fails_the_examination(wrapper: Any):
    """The examination finds a wrapper that keeps to itself what the inner engine says, or what it is asked."""
    [check] = WRAPPER_CHECKS
    with pytest.raises(AssertionError):
        await check(lambda engine: wrapper(engine, AtCalls({})))


async def test_verify_finds_what_lies_below_the_documents_through_a_wrapper(tmp_path: Path):
    """A file whose index misses a row is not called consistent because a wrapper stands before its engine."""
    file = tmp_path / "store.db"
    async with open_store(f"sqlite:///{file}") as store:
        await store.save_state("g", "s", {"n": 1}, ChangeMetadata("tester", "a test"))
    connection = apsw.Connection(str(file))
    connection.execute("DROP INDEX documents_by_timestamp")
    connection.execute("CREATE INDEX documents_by_timestamp ON documents (collection, timestamp, id) WHERE 0")
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = replace(sql, 'WHERE 0', 'WHERE timestamp IS NOT NULL')")
    connection.close()
    async with open_store(_faultless(SqliteEngine(str(file), ManualClock()))) as store:
        report = await StateMachinePersister(store).validate_consistency()
    assert [(each.path, each.kind) for each in report.findings] == [(str(file), "corrupt")]
