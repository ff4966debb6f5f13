"""What a lock manager is doing, for operators and for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LockWaiter:
    """A caller in this process that waits for locks.

    Attributes:
        holder: its name for people.
        resources: what it waits for, all at once.
        ahead: how many callers, of any process, came earlier and were alive when it last looked; of more than three for
            a resource, it looks at the last three.
        fences: the fencing number that each lock had when it last looked at the locks, which those far back in line do
            seldom; None where the lock was free. Empty until it has looked.
        is_confirmed: whether the watch has reported all that the caller has seen, so that it will miss no later change.
        is_asleep: whether it has acted on all it knows, and sleeps until the watch wakes it or a step is due.
    """

    holder: str
    resources: tuple[str, ...]
    ahead: int
    fences: Mapping[str, int | None]
    is_confirmed: bool
    is_asleep: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LockStatistics:
    """What one lock manager is doing at this moment.

    Attributes:
        held: the resources of its leases that are in force, with their fencing numbers.
        waiting: the callers that wait, by resource, first come first; one that wants several is listed under each.
        renewals: how many renewals are under way: sent, and neither answered nor given up.
    """

    held: Mapping[str, int]
    waiting: Mapping[str, tuple[LockWaiter, ...]]
    renewals: int
