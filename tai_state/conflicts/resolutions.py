"""The resolution of rival versions, and what was discarded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from tai_state.conflicts.rivals import Rival
from tai_state.values.json import encode


class Lack(Enum):
    """Stands in for a field's value where there is none."""

    MISSING = "missing"
    """The object has no such field, or the state is deleted."""
    UNKNOWN = "unknown"
    """The value in the base is unknown."""


class Discarded(msgspec.Struct, frozen=True, kw_only=True):
    """A change that the resolution does not include.

    Attributes:
        path: the field, its keys joined by dots; empty for the whole state.
        value: the field's value after the change; None if the change removed the field.
        removed: whether the change removed the field or deleted the state.
        stores: the ids of the stores with changes that the version included and its rival did not know of.
        tip: the id of the last event of the version with this change.
    """

    path: str
    value: Any
    removed: bool
    stores: tuple[str, ...]
    tip: str = msgspec.field(name="head")


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome for two rival versions. It does not depend on which of them is called ours.

    Attributes:
        data: the state that both should have; None: deleted.
        strategy: the name of the resolver that decided.
        discarded: the discarded changes, sorted by path.
    """

    data: dict[str, Any] | None
    strategy: str
    discarded: tuple[Discarded, ...] = ()


class FieldChange(NamedTuple):
    """A field of one version: its path and its value there."""

    path: str
    value: Any


def state_of(data: dict[str, Any] | None) -> Any:
    """A version's data as a value; MISSING for a deleted state."""
    return Lack.MISSING if data is None else data


def base_of(base: dict[str, Any] | None) -> Any:
    """The data of the last common version as a value; UNKNOWN if there is none."""
    return Lack.UNKNOWN if base is None else base


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; 1, 1.0 and true are three different values."""
    if isinstance(one, Lack) or isinstance(other, Lack):
        return one is other
    return encode(one) == encode(other)


def field_of(value: Any, key: str) -> Any:
    """The value of an object's field; UNKNOWN for every field of an unknown base."""
    if isinstance(value, dict):
        return value.get(key, Lack.MISSING)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return value if value is Lack.UNKNOWN else Lack.MISSING


def field_path(path: str | None, key: str) -> str:
    """The path of a field of the object at a path; None is the path of the whole state."""
    return key if path is None else f"{path}.{key}"


def unkept(value: Any, kept: Any, base: Any, path: str | None = None) -> Iterator[FieldChange]:
    """The changes of a version that the resolution does not include, field by field.

    A field that the version lacks counts as removed only if the base is known to have it.

    Args:
        value: the version's value.
        kept: the resolution's value.
        base: the value in the last common version.
        path: the path of these values.
    """
    if same(value, kept) or same(value, base):
        return
    if isinstance(value, dict) and isinstance(kept, dict):
        keys: set[str] = {*value, *kept}
        for key in sorted(keys):
            yield from unkept(field_of(value, key), field_of(kept, key), field_of(base, key), field_path(path, key))
    elif value is not Lack.MISSING or base is not Lack.UNKNOWN or path is None:
        yield FieldChange(path or "", value)


def discarded_changes(version: Rival, rival: Rival, changes: Iterable[FieldChange]) -> list[Discarded]:
    """The records of a version's discarded changes."""
    stores = version.unseen_by(rival)
    return [
        Discarded(
            path=path,
            value=None if value is Lack.MISSING else value,
            removed=value is Lack.MISSING,
            stores=stores,
            tip=version.tip,
        )
        for path, value in changes
    ]


def resolution(data: dict[str, Any] | None, strategy: str, discarded: Iterable[Discarded]) -> Resolution:
    """A resolution, its records in an order that does not depend on which version is called ours."""
    return Resolution(data=data, strategy=strategy, discarded=tuple(sorted(discarded, key=_place)))


def _place(discarded: Discarded) -> tuple[str, str, tuple[str, ...]]:
    return discarded.path, discarded.tip, discarded.stores
