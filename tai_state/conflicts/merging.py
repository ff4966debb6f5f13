"""Field-wise three-way merge: what only one side changed is kept, what both changed is combined or decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, TypeAlias

from tai_state.conflicts.resolutions import (
    FieldChange,
    Lack,
    Resolution,
    dropped,
    field_of,
    field_path,
    known,
    resolution,
    same,
    state_of,
    unkept,
)
from tai_state.conflicts.resolvers import ranked
from tai_state.conflicts.rivals import Rival
from tai_state.values.json import encode, normalise

Combine: TypeAlias = Callable[[Any, Any, Any], Any]
"""``combine(earlier, later, base)``: the value of a field that both sides changed; base is None where unknown."""

FieldStrategy: TypeAlias = Literal["counter", "union", "maximum", "last"] | Combine
"""How a field is merged that both sides changed; :class:`FieldMerge` says what they mean."""


class FieldMerge:
    """Merges field by field, against the data of the last version that both sides knew of.

    A field that one side changed is as that side has it; one that both changed to the same value has that value;
    objects are merged field by field in turn. Where both changed a field differently, its strategy decides:

    - ``counter``: the sum of both changes, also where they are the same. Needs numbers and a base, in which a missing
      field counts as 0.
    - ``union``: a list read as a set: what either side added, without what either side removed. In the order of the
      base, then of the earlier side, then of the later one.
    - ``maximum``: the greater of two numbers, or of two texts.
    - ``last``: the later version's, as :class:`~tai_state.conflicts.resolvers.LastWriteWins` has it.
    - a function: what it makes of both, the earlier one first.

    A strategy that does not fit the values gives way to ``last``. What is not carried on is recorded as discarded:
    of a function's field each side's value that is not the result.

    A removal gives way to a change: a field that one side took away and the other changed stays as changed, and so
    does a state that one side deleted; the removal is recorded. With ``removal_wins`` it is the other way round.

    Without a base every field that differs is one that both changed. A field that only one side has stays: nobody can
    know whether the other one removed it.

    Args:
        strategies: by field, its keys joined by dots, like ``{"balance": "counter", "profile.tags": "union"}``. One
            for an object is for the object as a whole.
        default: of the fields not named.
        removal_wins: whether a removal wins over a change.

    Raises:
        ValueError: there is no strategy of that name.
    """

    def __init__(
        self,
        strategies: Mapping[str, FieldStrategy] | None = None,
        default: FieldStrategy = "last",
        *,
        removal_wins: bool = False,
    ) -> None:
        self._strategies = dict(strategies or {})
        self._default: FieldStrategy = default
        self._removal_wins = removal_wins
        for strategy in (*self._strategies.values(), default):
            if not callable(strategy) and strategy not in _NAMED:
                raise ValueError(f"there is no strategy {strategy!r}: use counter, union, maximum, last or a function")

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """See :meth:`Resolver.resolve`."""
        earlier, later = ranked(ours, theirs)
        merged = self._merge(None, state_of(earlier.data), state_of(later.data), known(base))
        discarded = dropped(earlier, later, merged.earlier) + dropped(later, earlier, merged.later)
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
        # Two steps of one size are two steps.
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
        """Two objects, field by field."""
        whole = _Merged({})
        for key in keys:
            part = self._merge(field_path(path, key), field_of(earlier, key), field_of(later, key), field_of(base, key))
            if part.value is not Lack.MISSING:
                whole.value[key] = part.value
            whole.earlier.extend(part.earlier)
            whole.later.extend(part.later)
        return whole

    def _removed(self, path: str | None, earlier: Any, later: Any, base: Any) -> _Merged:
        """What one side changed and the other one lacks."""
        there = later if earlier is Lack.MISSING else earlier
        if there is Lack.MISSING or (base is Lack.UNKNOWN and path is not None):
            return _Merged(there)
        return _decided(path, earlier, later, base, Lack.MISSING if self._removal_wins else there)


@dataclass(slots=True)
class _Merged:
    """The value of a field, and what of either version did not make it."""

    value: Any
    earlier: list[FieldChange] = field(default_factory=list[FieldChange])
    later: list[FieldChange] = field(default_factory=list[FieldChange])


def _decided(path: str | None, earlier: Any, later: Any, base: Any, value: Any) -> _Merged:
    """A value in place of both."""
    return _Merged(value, list(unkept(earlier, value, base, path)), list(unkept(later, value, base, path)))


def _counter(earlier: Any, later: Any, base: Any) -> Any:
    before: Any = 0 if base is Lack.MISSING else base
    if not (_is_number(earlier) and _is_number(later) and _is_number(before)):
        return Lack.MISSING
    try:
        total = earlier + later - before
    except OverflowError:  # an integer that no float can hold, and a float
        return Lack.MISSING
    return total if isfinite(total) else Lack.MISSING


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
"""What each strategy makes of a field; Lack.MISSING where it does not fit the values."""

_COMBINING = {"counter", "union"}
"""Strategies that carry on both changes."""
