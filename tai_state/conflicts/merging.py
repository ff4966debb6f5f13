"""Field-wise three-way merge: a change by one side is kept; changes by both are combined, or one is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, TypeAlias

from tai_state.conflicts.resolutions import (
    FieldChange,
    Lack,
    Resolution,
    base_of,
    discarded_changes,
    field_of,
    field_path,
    resolution,
    same,
    state_of,
    unkept,
)
from tai_state.conflicts.resolvers import ranked
from tai_state.conflicts.rivals import Rival
from tai_state.errors import InvalidData
from tai_state.values.checks import check_flag
from tai_state.values.json import encode, normalise
from tai_state.values.metadata import check_text

Combine: TypeAlias = Callable[[Any, Any, Any], Any]
"""``combine(earlier, later, base)``: the value of a field that both sides changed; base is None if unknown."""

FieldStrategy: TypeAlias = Literal["counter", "union", "maximum", "last"] | Combine
"""How to merge a field that both sides changed; :class:`FieldMerge` explains each strategy."""


class FieldMerge:
    """Merges field by field, against the data of the last version that both sides knew of (the base).

    A field that one side changed has that side's value. A field that both changed to the same value has that value.
    Objects are merged field by field in turn. If both sides changed a field differently, its strategy decides:

    - ``counter``: the sum of both changes, even if the two changes are equal. It needs numbers and a base; a field that
      the base lacks counts as 0.
    - ``union``: the list is treated as a set: all that either side added, without what either side removed; in the
      order of the base, then the earlier side, then the later side.
    - ``maximum``: the greater of two numbers or two texts.
    - ``last``: the later version's value; later as in :class:`~tai_state.conflicts.resolvers.LastWriteWins`.
    - a function: its result for both values, the earlier one first.

    A strategy that does not fit the values falls back to ``last``. Values that are not kept are recorded as discarded;
    for a function, each side's value that differs from the result.

    A change wins over a removal: if one side removed a field and the other changed it, the changed field stays. The
    same goes for a state that one side deleted. The removal is recorded. With ``removal_wins`` the removal wins.

    Without a base, every field that differs counts as changed by both. A field that only one side has stays, since the
    other side may never have had it.

    Args:
        strategies: by field, its keys joined by dots, like ``{"balance": "counter", "profile.tags": "union"}``. A
            strategy for an object applies to the object as a whole.
        default: the strategy for all other fields.
        removal_wins: whether a removal wins over a change.

    Raises:
        InvalidData: an argument is not valid.
        ValueError: there is no strategy of that name.
    """

    def __init__(
        self,
        strategies: Mapping[str, FieldStrategy] | None = None,
        default: FieldStrategy = "last",
        *,
        removal_wins: bool = False,
    ) -> None:
        self._strategies = checked_fields(strategies)
        check_flag(removal_wins, "removal_wins")
        self._default: FieldStrategy = default
        self._removal_wins = removal_wins
        for strategy in (*self._strategies.values(), default):
            if not callable(strategy) and strategy not in [*_NAMED]:
                raise ValueError(f"there is no strategy {strategy!r}: use counter, union, maximum, last or a function")

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """See :meth:`Resolver.resolve`."""
        earlier, later = ranked(ours, theirs)
        merged = self._merge(None, state_of(earlier.data), state_of(later.data), base_of(base))
        discarded = discarded_changes(earlier, later, merged.earlier) + discarded_changes(later, earlier, merged.later)
        return resolution(None if merged.value is Lack.MISSING else merged.value, "field_merge", discarded)

    def _merge(self, path: str | None, earlier: Any, later: Any, base: Any) -> _Merged:
        if same(earlier, base):
            return _Merged(later)
        if same(later, base):
            return _Merged(earlier)
        if earlier is Lack.MISSING or later is Lack.MISSING:
            return self._removed(path, earlier, later, base)
        if isinstance(earlier, dict) and isinstance(later, dict) and path not in self._strategies:
            keys: set[str] = {*earlier, *later}
            return self._fields(path, sorted(keys), earlier, later, base)
        strategy = self._strategies.get(path or "", self._default)
        # Two equal steps of a counter are still two steps.
        if same(earlier, later) and strategy != "counter":
            return _Merged(later)
        if callable(strategy):
            known_base = None if isinstance(base, Lack) else base
            _, made = normalise(strategy(earlier, later, known_base), f"what the strategy of {path!r} returned")
            return _decided(path, earlier, later, base, made)
        combined = _NAMED[strategy](earlier, later, base)
        if combined is Lack.MISSING:
            return _decided(path, earlier, later, base, later)
        return _Merged(combined) if strategy in _COMBINING else _decided(path, earlier, later, base, combined)

    def _fields(self, path: str | None, keys: list[str], earlier: Any, later: Any, base: Any) -> _Merged:
        """Merge two objects field by field."""
        whole = _Merged({})
        for key in keys:
            part = self._merge(field_path(path, key), field_of(earlier, key), field_of(later, key), field_of(base, key))
            if part.value is not Lack.MISSING:
                whole.value[key] = part.value
            whole.earlier.extend(part.earlier)
            whole.later.extend(part.later)
        return whole

    def _removed(self, path: str | None, earlier: Any, later: Any, base: Any) -> _Merged:
        """Merge a field that one side, or both, lack."""
        there = later if earlier is Lack.MISSING else earlier
        if there is Lack.MISSING or (base is Lack.UNKNOWN and path is not None):
            return _Merged(there)
        return _decided(path, earlier, later, base, Lack.MISSING if self._removal_wins else there)


def checked_fields(strategies: Mapping[str, FieldStrategy] | None) -> dict[str, FieldStrategy]:
    """The strategies by field.

    Raises:
        InvalidData: it is not a mapping of texts.
    """
    given: Mapping[str, FieldStrategy] = {} if strategies is None else strategies
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidData(f"strategies must be a mapping of fields to strategies, not {type(given).__name__}")
    for each in given:
        check_text(each, "each field in strategies")
    return dict(given)


@dataclass(slots=True)
class _Merged:
    """The merged value of a field, and the changes of either version that it does not include."""

    value: Any
    earlier: list[FieldChange] = field(default_factory=list[FieldChange])
    later: list[FieldChange] = field(default_factory=list[FieldChange])


def _decided(path: str | None, earlier: Any, later: Any, base: Any, value: Any) -> _Merged:
    """One value instead of both."""
    return _Merged(value, list(unkept(earlier, value, base, path)), list(unkept(later, value, base, path)))


def _counter(earlier: Any, later: Any, base: Any) -> Any:
    before: Any = 0 if base is Lack.MISSING else base
    if not (_is_number(earlier) and _is_number(later) and _is_number(before)):
        return Lack.MISSING
    try:
        total = earlier + later - before
    except OverflowError:  # a float and an integer that is too large for a float
        return Lack.MISSING
    return total if isinstance(total, int) or isfinite(total) else Lack.MISSING


def _union(earlier: Any, later: Any, base: Any) -> Any:
    if not (isinstance(earlier, list) and isinstance(later, list)):
        return Lack.MISSING
    sides: list[list[Any]] = [base if isinstance(base, list) else [], earlier, later]
    before, one, other = ({encode(item) for item in side} for side in sides)
    gone = before - (one & other)
    items = {encode(item): item for side in sides for item in side}
    return [item for text, item in items.items() if text not in gone]


def _maximum(earlier: Any, later: Any, base: Any) -> Any:  # noqa: ARG001
    if (_is_number(earlier) and _is_number(later)) or (isinstance(earlier, str) and isinstance(later, str)):
        return max(later, earlier)
    return Lack.MISSING


def _last(earlier: Any, later: Any, base: Any) -> Any:  # noqa: ARG001
    return later


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_NAMED: dict[str, Combine] = {"counter": _counter, "union": _union, "maximum": _maximum, "last": _last}
"""The strategies by name; one that does not fit the values returns Lack.MISSING."""

_COMBINING = {"counter", "union"}
"""Strategies whose result includes both changes."""
