"""Commits whose transaction failed at its end: applied, lost or unknown, and said to be that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from tai_state.engines.api import ABSENT, At, Check, Committed, Delete, Put
from tai_state.errors import CommitRefused, CorruptDocument, StoreUnavailable, Unavailable
from tai_state.testing import ManualClock

from ...support.sqlite import all_in, connected, served, writer_over

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tai_state.engines.api import Write


anyio_test = pytest.mark.anyio


class _Lossy:
    """Opens connections whose next COMMITs fail as planned; ``between`` runs before opening anew."""

    def __init__(self, file: Path, *plan: str, between: Callable[[], object] | None = None) -> None:
        self._file = file
        self._between = between
        self.plan = list(plan)
        self.opened = 0

    def __call__(self) -> _LossyConnection:
        self.opened += 1
        if self.opened > 1 and self._between is not None:
            self._between()
        return _LossyConnection(connected(self._file), self.plan)


class _LossyConnection:
    """A connection as the writer sees it. A COMMIT planned as "lost" is not done, one as "applied" is."""

    def __init__(self, connection: apsw.Connection, plan: list[str]) -> None:
        self._connection = connection
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *args: Any) -> Any:
        fault = self._plan.pop(0) if sql == "COMMIT" and self._plan else ""
        if fault != "lost":
            result = self._connection.execute(sql, *args)
        if fault:
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        return result


def _is_said_not_applied(answer: object) -> bool:
    return isinstance(answer, Unavailable) and not answer.unknown


@anyio_test
async def test_a_commit_that_was_lost_is_reported_so(file: Path):
    """Where COMMIT fails and the file shows nothing of it, the answer is StoreUnavailable, for certain."""
    with writer_over(file, _Lossy(file, "", "lost")) as writer:
        served(writer, [Put("c/a", {"n": 1})])
        [answer] = served(writer, [Put("c/a", {"n": 2}), Put("c/b", {})])
        assert (type(answer), answer.code, answer.unknown) == (StoreUnavailable, "SQLITE_IOERR", False)
        assert [each.fields() for each in await all_in(file)] == [{"n": 1}]
        [committed] = served(writer, [Put("c/a", {"n": 3}), Put("c/b", {})])
    assert {each.revision for each in await all_in(file)} == {committed.revision}


@anyio_test
@pytest.mark.parametrize(
    "writes",
    [[Put("c/a", {"n": 2})], [Delete("c/a")], [Check("c/a", At(1)), Put("c/b", {})]],
    ids=lambda w: type(w[0]).__name__,
)
async def test_a_commit_that_was_applied_is_answered(file: Path, writes: Sequence[Write]):
    """Where COMMIT reports an error and the file shows its commit, the caller gets its result."""
    with writer_over(file, _Lossy(file, "", "applied")) as writer:
        [first] = served(writer, [Put("c/a", {"n": 1})])
        assert first.revision == 1
        [answer] = served(writer, writes)
        assert isinstance(answer, Committed)
        [later] = served(writer, [Put("c/later", {}, ABSENT)])
    assert later.revision > answer.revision > first.revision
    puts = {write.path for write in writes if isinstance(write, Put)}
    assert {each.path for each in await all_in(file) if each.revision == answer.revision} == puts


@anyio_test
async def test_an_outcome_that_cannot_be_seen_is_unknown(file: Path):
    """Where COMMIT fails and the file cannot be looked at, the answer says that the commit may be applied."""

    def broken() -> None:
        raise apsw.exception_for(apsw.SQLITE_CANTOPEN)

    opener = _Lossy(file, "", "applied", between=broken)
    with writer_over(file, opener) as writer:
        served(writer, [Put("c/a", {})])
        [answer] = served(writer, [Put("c/a", {"n": 2})])
        assert (type(answer), answer.unknown) == (StoreUnavailable, True)
        assert answer.code == "SQLITE_IOERR"


@anyio_test
async def test_an_outcome_behind_a_damaged_file_is_unknown(file: Path):
    """Where COMMIT fails and the file is then found damaged or foreign, the commit is not said to be lost."""

    def broken() -> None:
        raise CorruptDocument(str(file), "is damaged")

    with writer_over(file, _Lossy(file, "", "applied", between=broken)) as writer:
        served(writer, [Put("c/a", {})])
        [answer] = served(writer, [Put("c/a", {"n": 2})])
    assert getattr(answer, "unknown", False), f"answered with {answer!r}"


@anyio_test
async def test_a_whole_transaction_was_applied_or_lost(file: Path):
    """Where COMMIT failed after all, commits that rewrote each other's documents are all applied."""
    with writer_over(file, _Lossy(file, "", "applied")) as writer:
        served(writer, [Put("c/a", {"n": 0})])
        answers = served(
            writer,
            [Put("c/a", {"n": 1}), Put("c/b", {"n": 1})],
            [Put("c/a", {"n": 2})],
            [Delete("c/b")],
            [Put("c/b", {"n": 3}, ABSENT)],
        )
    assert [each.fields() for each in await all_in(file)] == [{"n": 2}, {"n": 3}]
    assert [type(each) for each in answers] == [Committed] * 4, answers


@anyio_test
async def test_a_refusal_by_a_lost_commit_is_not_given(file: Path):
    """A commit that was refused because of one that then got lost is not told that it was refused."""
    with writer_over(file, _Lossy(file, "", "lost")) as writer:
        served(writer, [Put("c/first", {})])
        answers = served(writer, [Put("c/a", {"n": 1}, ABSENT)], [Put("c/a", {"n": 2}, ABSENT)])
    stored = [each.fields() for each in await all_in(file) if each.id == "a"]
    applied = [n for n, each in enumerate(answers, 1) if isinstance(each, Committed)]
    assert stored == [{"n": n} for n in applied]
    assert applied or not any(isinstance(each, CommitRefused) for each in answers), answers


def _others_commit(file: Path, *writes: Write) -> Callable[[], None]:
    """Another process that commits these writes."""

    def commit() -> None:
        with writer_over(file, clock=ManualClock(5)) as other:
            [committed] = served(other, writes)
            assert isinstance(committed, Committed)

    return commit


@anyio_test
async def test_an_applied_commit_that_others_have_replaced_is_not_called_lost(file: Path):
    """A commit that was applied, reported an error and was then overwritten by others is not called lost."""
    between = _others_commit(file, Put("c/a", {"by": "other"}))
    with writer_over(file, _Lossy(file, "", "applied", between=between)) as writer:
        served(writer, [Put("c/a", {})])
        [answer] = served(writer, [Put("c/a", {"by": "us"})])
    assert not _is_said_not_applied(answer), f"the commit was applied, and answered with {answer!r}"


@anyio_test
async def test_a_lost_commit_is_not_taken_for_another_processes(file: Path):
    """A commit that got lost while another process's took its revision and document is not called applied."""
    between = _others_commit(file, Put("c/a", {"by": "other"}, At(1)))
    with writer_over(file, _Lossy(file, "", "lost", between=between)) as writer:
        served(writer, [Put("c/a", {})])
        [answer] = served(writer, [Put("c/a", {"by": "us"}, At(1))])
    assert [each.fields() for each in await all_in(file)] == [{"by": "other"}]
    assert not isinstance(answer, Committed), "two writers won at one revision"
