"""The facts that an observer of a store receives: commits, outcomes, waits and recoveries."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec

F = TypeVar("F")

_logger = logging.getLogger("tai_state.store")

AttemptOutcome: TypeAlias = Literal["applied", "refused", "unanswered", "unavailable", "too large", "broken off"]
"""How one commit ended.

``refused``: a document was not as required. ``unanswered``: the answer was lost; it may be applied. ``unavailable`` or
``too large``: the engine could not do it; it is not applied. ``broken off``: its task was cancelled, or an unexpected
error ended it.
"""


SettledKind: TypeAlias = Literal["states", "locks", "upkeep"]
"""What a change was of.

``states``: of states, with their events. ``locks``: acquiring, renewing or releasing locks. ``upkeep``: anything else
that the library writes, such as the id of a new store, a snapshot by hand, a recovery, a cleanup or a restore.
"""


class Attempted(msgspec.Struct, frozen=True, kw_only=True):
    """One commit that was sent.

    Attributes:
        paths: the paths of all documents that it writes, deletes or checks.
        number: 1 for the first commit of a change, 2 for the next one.
        seconds: the time until its answer.
        outcome: how it ended.
    """

    paths: tuple[str, ...]
    number: int
    seconds: float
    outcome: AttemptOutcome


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """How a change ended: of states, of locks, or of anything else that the library writes.

    A transaction that meets a conflict before its commit, at a read for example, is such an end, too.

    Attributes:
        kind: what it was a change of.
        paths: the paths of its documents.
        attempts: how many commits were sent for it; 0 if looking was enough.
        seconds: the time from its first commit or look to its end; 0 for a transaction that met a conflict before
            its commit.
        error: the name of the error class that it ended with; None: it succeeded.
    """

    kind: SettledKind
    paths: tuple[str, ...]
    attempts: int
    seconds: float
    error: str | None


class Waited(msgspec.Struct, frozen=True, kw_only=True):
    """A wait that is over.

    Attributes:
        kind: ``lock``: for a lock that was held. ``turn``: for another task of this process that was changing the
            same state.
        paths: the paths of the locks, or of the state.
        seconds: how long the wait was.
        is_acquired: whether the wait ended with the lock or the turn. A change goes on without its turn, too.
    """

    kind: Literal["lock", "turn"]
    paths: tuple[str, ...]
    seconds: float
    is_acquired: bool


class RecoveryTime(msgspec.Struct, frozen=True, kw_only=True):
    """A recovery that has ended without an error.

    Attributes:
        states: how many states it checked; 1 for ``load_state``.
        seconds: how long it took, all together.
    """

    states: int
    seconds: float


@runtime_checkable
class Observer(Protocol):
    """Receives facts about the changes of a store. A subclass defines only the methods that it needs.

    The methods are called in the task of the change, and must neither block nor wait. If they raise an error, it is
    logged and does not affect the change. They receive ids and numbers, never data.
    """

    def attempt(self, attempted: Attempted) -> None:  # noqa: ARG002 - for subclasses
        """A commit was sent, and answered or given up."""
        return

    def settled(self, settled: Settled) -> None:  # noqa: ARG002 - for subclasses
        """A change has ended."""
        return

    def waited(self, waited: Waited) -> None:  # noqa: ARG002 - for subclasses
        """A wait has ended."""
        return

    def recovered(self, recovery: RecoveryTime) -> None:  # noqa: ARG002 - for subclasses
        """A call of ``recover`` or ``load_state`` has ended."""
        return


def tell(method: Callable[[F], None], fact: F) -> None:
    """Call an observer. If it raises an error, the error is logged."""
    try:
        method(fact)
    except Exception:
        _logger.exception("an observer failed")
