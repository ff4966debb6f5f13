"""When a snapshot is kept for recovery, and how many are kept.

A snapshot is kept in the same commit as the event that makes it due. One that is too large is left out with a warning,
and is due again with the next event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

import msgspec

from tai_state.values.checks import instance_option, whole_option
from tai_state.values.json import decode, to_bytes
from tai_state.values.times import parse_time


class SinceKept(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What happened on a stream since its last kept snapshot.

    Attributes:
        events: how many events there were.
        bytes: the size of their payloads and states as JSON text.
        since: the latest time of any event up to the last kept snapshot, or the time of the first event; as text.
        until: the latest time of any event up to now; as text.
        data: the state's data now; None if it is deleted.
        is_changed: whether the data differs from that before the events being written.
    """

    events: int
    bytes: int
    since: str
    until: str
    data: Mapping[str, Any] | None
    is_changed: bool = True

    @property
    def age(self) -> timedelta:
        """How much time has passed on the stream, by its events' own times."""
        return parse_time(self.until) - parse_time(self.since)


@runtime_checkable
class SnapshotPolicy(Protocol):
    """Decides when to keep a snapshot, only from what happened since the last one, so that all writers decide alike."""

    @property
    def keep(self) -> int:
        """How many snapshots to keep; the commit that keeps a new one deletes older ones, a hundred at most.

        The snapshot with which a stream begins after a cleanup is not counted: it stays until the next cleanup.
        """
        ...

    def due(self, since_kept: SinceKept) -> bool:
        """Whether to keep a snapshot of the version being written."""
        ...


@dataclass(frozen=True, slots=True)
class EveryEvents:
    """Keeps a snapshot after every ``events`` events; recovery then reads at most that many, and three documents."""

    events: int = 100
    keep: int = 5

    def __post_init__(self) -> None:
        whole_option(self.events, "events", 1)
        whole_option(self.keep, "keep", 1)

    def due(self, since_kept: SinceKept) -> bool:  # noqa: D102
        return since_kept.events >= self.events


@dataclass(frozen=True, slots=True)
class EveryBytes:
    """Keeps a snapshot each time the events since the last one reach ``bytes`` bytes."""

    bytes: int
    keep: int = 5

    def __post_init__(self) -> None:
        whole_option(self.bytes, "bytes", 1)
        whole_option(self.keep, "keep", 1)

    def due(self, since_kept: SinceKept) -> bool:  # noqa: D102
        return since_kept.bytes >= self.bytes


@dataclass(frozen=True, slots=True)
class EveryInterval:
    """Keeps a snapshot with the first event that happens at least ``interval`` after the last kept one."""

    interval: timedelta
    keep: int = 5

    def __post_init__(self) -> None:
        instance_option(self.interval, timedelta, "interval", "a timedelta")
        if self.interval <= timedelta(0):
            raise ValueError("interval must be longer than 0")
        whole_option(self.keep, "keep", 1)

    def due(self, since_kept: SinceKept) -> bool:  # noqa: D102
        return since_kept.age >= self.interval


@dataclass(frozen=True, slots=True)
class OnStates:
    """Keeps a snapshot of each new state in which a field has one of these values: ``OnStates("status", ("failed",))``.

    Events that leave the state as it is keep none.
    """

    field: str
    values: tuple[str | int | bool | None, ...]
    keep: int = 5

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple | list):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise TypeError(f"values must be a tuple or a list, like ({self.values!r},)")
        instance_option(self.field, str, "field", "the name of a field")
        whole_option(self.keep, "keep", 1)

    def due(self, since_kept: SinceKept) -> bool:  # noqa: D102
        data = since_kept.data
        return since_kept.is_changed and data is not None and self.field in data and data[self.field] in self.values


class AnyOf:
    """Keeps a snapshot if any of several policies does."""

    def __init__(self, *policies: SnapshotPolicy, keep: int = 5) -> None:
        if not policies:
            raise ValueError("policies must be at least one")
        for each in policies:
            check_policy(each, "each of the policies")
        whole_option(keep, "keep", 1)
        self.policies = policies
        self.keep = keep

    def __repr__(self) -> str:
        return f"AnyOf({', '.join(map(repr, self.policies))}, keep={self.keep})"

    def due(self, since_kept: SinceKept) -> bool:  # noqa: D102
        return any(policy.due(since_kept) for policy in self.policies)


@dataclass(frozen=True, slots=True)
class Never:
    """Keeps no snapshot by itself; only ``create_snapshot`` does."""

    keep: int = 5

    def __post_init__(self) -> None:
        whole_option(self.keep, "keep", 1)

    def due(self, since_kept: SinceKept) -> bool:  # noqa: ARG002, D102
        return False


class OfOthers(EveryEvents):
    """The policy of a store that knows no application, such as that of a command: it trims nobody's snapshots.

    It keeps as many as there are, and at least ``keep``, because how many to keep is for the application to say.
    """


class Apart:
    """A policy of the application's, with data of its own: what it does to the data is not stored."""

    def __init__(self, policy: SnapshotPolicy) -> None:
        self._policy = policy

    @property
    def keep(self) -> int:
        """See :class:`SnapshotPolicy`."""
        return self._policy.keep

    def due(self, since_kept: SinceKept) -> bool:  # noqa: D102
        data: Mapping[str, Any] | None = decode(to_bytes(since_kept.data))
        return self._policy.due(msgspec.structs.replace(since_kept, data=data))


_OURS = (EveryEvents, EveryBytes, EveryInterval, OnStates, Never, OfOthers)


def apart(policy: SnapshotPolicy) -> SnapshotPolicy:
    """The policy, kept apart from the data that is stored unless it is known to change none."""
    return policy if _is_ours(policy) else Apart(policy)


def _is_ours(policy: SnapshotPolicy) -> bool:
    return type(policy) in _OURS or (type(policy) is AnyOf and all(map(_is_ours, policy.policies)))


def keep_of(policy: SnapshotPolicy, kept: int) -> int:
    """How many snapshots to keep by a policy, where so many are kept now."""
    return max(kept, policy.keep) if isinstance(policy, OfOthers) else policy.keep


def check_policy(policy: object, name: str) -> None:
    """Check that an option is a policy.

    Raises:
        TypeError: it is not.
    """
    instance_option(policy, SnapshotPolicy, name, "a policy, like EveryEvents(100)")
