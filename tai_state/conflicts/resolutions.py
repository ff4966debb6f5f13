"""What became of rival versions, and what was dropped on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from tai_state.conflicts.rivals import Rival
from tai_state.values.json import encode


class Lack(Enum):
    """What stands for a field's value where there is none."""

    MISSING = "missing"
    """The object has no such field, or the state is deleted."""
    UNKNOWN = "unknown"
    """It is not known what was there before."""


class Discarded(msgspec.Struct, frozen=True, kw_only=True):
    """A change that did not make it into the resolution.

    Attributes:
        path: the field, its keys joined by dots; empty for the whole state.
        value: that the change gave it; None where it took the field away.
        removed: whether the change took the field away, or deleted the state.
        stores: ids of the stores whose changes the version held and its rival did not know.
        tip: the id of the last event of the version that held it.
    """

    path: str
    value: Any
    removed: bool
    stores: tuple[str, ...]
    tip: str = msgspec.field(name="head")


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """What became of two rival versions. The same whichever of them is called ours.

    Attributes:
        data: the state that both are to have; None: deleted.
        strategy: the name of the resolver that decided.
        discarded: what was dropped, in the order of paths.
    """

    data: dict[str, Any] | None
    strategy: str
    discarded: tuple[Discarded, ...] = ()


class FieldChange(NamedTuple):
    """A field of one version: its path and its value there."""

    path: str
    value: Any


def state_of(data: dict[str, Any] | None) -> Any:
    """A version's data as a value: a deleted state is missing."""
    return Lack.MISSING if data is None else data


def known(base: dict[str, Any] | None) -> Any:
    """The data of the last common version as a value."""
    return Lack.UNKNOWN if base is None else base


def same(one: Any, other: Any) -> bool:
    """Whether two values are one and the same JSON; 1, 1.0 and true are three."""
    if isinstance(one, Lack) or isinstance(other, Lack):
        return one is other
    return encode(one) == encode(other)


def field_of(value: Any, key: str) -> Any:
    """The value of an object's field; of a base that is not known, no field is known."""
    if isinstance(value, dict):
        return value.get(key, Lack.MISSING)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return value if value is Lack.UNKNOWN else Lack.MISSING


def field_path(path: str | None, key: str) -> str:
    """The path of a field of what stands at a path; None is the path of the whole state."""
    return key if path is None else f"{path}.{key}"


def unkept(value: Any, kept: Any, base: Any, path: str | None = None) -> Iterator[FieldChange]:
    """What a version changed and the resolution does not have, field by field.

    A field that the version lacks was taken away only where the base is known to have it.

    Args:
        value: the version's.
        kept: the resolution's.
        base: of the last common version.
        path: where they stand.
    """
    if same(value, kept) or same(value, base):
        return
    if isinstance(value, dict) and isinstance(kept, dict):
        keys: set[str] = {*value, *kept}
        for key in sorted(keys):
            yield from unkept(field_of(value, key), field_of(kept, key), field_of(base, key), field_path(path, key))
    elif value is not Lack.MISSING or base is not Lack.UNKNOWN or path is None:
        yield FieldChange(path or "", value)


def dropped(version: Rival, rival: Rival, changes: Iterable[FieldChange]) -> list[Discarded]:
    """The records of a version's changes that did not make it."""
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
    """A resolution, its records in an order that does not depend on who asks."""
    return Resolution(data=data, strategy=strategy, discarded=tuple(sorted(discarded, key=_place)))


def _place(discarded: Discarded) -> tuple[str, str, tuple[str, ...]]:
    return discarded.path, discarded.tip, discarded.stores
