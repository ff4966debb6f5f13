"""Changing documents by a pure function of their contents: read, decide, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from tai_state.engines.api import Committed, Write
from tai_state.engines.matters import (
    Bounds,
    Commit,
    Done,
    Look,
    TooLarge,
    Verdict,
    Waist,
    contention_error,
    overtaken,
    standing,
    still_hold,
)
from tai_state.engines.settling import settle
from tai_state.errors import CommitOutcomeUnknown, TaiStateError

R = TypeVar("R")


class Rewrite(Generic[R]):
    """A matter that changes documents by a pure function of their contents.

    Args:
        paths: the paths of all documents that are read. What was written is read as well, after a failure.
        decide: decides what to do, given a look. It is called again whenever others were faster.
        unsettled: makes the error for an outcome that could not be found out; by default ``CommitOutcomeUnknown``.
        is_telling: whether documents that are as this matter wrote them prove that its commit was applied. True if no
            other caller writes the same.
    """

    def __init__(
        self,
        paths: Sequence[str],
        decide: Callable[[Look], Verdict[R]],
        unsettled: Callable[[], TaiStateError] | None = None,
        *,
        is_telling: bool = True,
    ) -> None:
        self._paths = paths
        self._decide = decide
        self._unsettled = unsettled
        self._is_telling = is_telling

    def reads(self, sent: Commit[R] | None) -> Sequence[str]:  # noqa: D102
        return (
            self._paths if sent is None else list(dict.fromkeys([*self._paths, *(each.path for each in sent.writes)]))
        )

    def judge(self, look: Look, sent: Commit[R] | None) -> Verdict[R]:  # noqa: D102
        if sent is not None and self._is_telling and (committed := standing(sent.writes, look)) is not None:
            return Done(sent.accepted(committed))
        return self._decide(look)

    def is_overtaken(self, sent: Commit[R], look: Look) -> bool:  # noqa: D102
        return overtaken(sent.writes, look)

    def smaller(self, sent: Commit[R], error: TooLarge) -> Commit[R] | None:  # noqa: ARG002, D102
        return None

    def outrun(self) -> R:  # noqa: D102
        raise contention_error()

    def unsettled(self) -> TaiStateError:  # noqa: D102
        return CommitOutcomeUnknown((), tuple(self._paths)) if self._unsettled is None else self._unsettled()


async def write(
    waist: Waist, writes: Sequence[Write], bounds: Bounds, unsettled: Callable[[], TaiStateError] | None = None
) -> Committed:
    """Commit writes that may safely be applied twice; retry until an answer comes.

    Raises:
        CommitOutcomeUnknown: no answer came in time; if ``unsettled`` is given, its error is raised instead.
        StoreUnavailable, StoreTimeout: nothing was applied.
    """
    commit = Commit(writes, _as_is)
    rewrite = Rewrite([each.path for each in writes], lambda _: commit, unsettled)
    return await settle(waist, rewrite, bounds, commit)


async def write_unless_moved(waist: Waist, writes: Sequence[Write], bounds: Bounds) -> bool:
    """Commit, and return whether it was applied; it is given up once one of its requirements does not hold.

    Raises:
        CommitOutcomeUnknown: no answer came in time.
        StoreUnavailable, StoreTimeout: nothing was applied.
    """
    commit = Commit(writes, _applied)

    def decide(look: Look) -> Verdict[bool]:
        return commit if still_hold(writes, look) else Done(False)

    return await settle(waist, Rewrite([each.path for each in writes], decide), bounds, commit)


def _as_is(committed: Committed) -> Committed:
    return committed


def _applied(_committed: Committed) -> bool:
    return True
