"""Carrying over the fields of a state that a model does not know, so that a change through the model keeps them.

A newer release of an application may have stored fields that the model of an older one lacks. All values here are JSON.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeGuard

from tai_state.errors import InvalidData

Place: TypeAlias = tuple[str | int, ...]
"""The keys and indexes that lead to a field."""


def has_all(before: Any, now: Any) -> bool:
    """Whether each field of a value is also in another one, at every depth; then nothing has to be carried over."""
    if _is_object(before) and _is_object(now):
        return before.keys() <= now.keys() and all(
            has_all(each, now[key]) for key, each in before.items() if isinstance(each, dict | list)
        )
    if _is_list(before) and _is_list(now):
        return before == now or (len(before) <= len(now) and all(map(has_all, before, now)))
    return True


def with_unknown(before: Any, known: Any, now: Any, is_unknown: Callable[[Place], bool], at: Place = ()) -> Any:
    """A value with those fields of the value before it that the model does not know.

    Args:
        before: the value before, as stored.
        known: the value before, as the model writes it.
        now: the new value, as the model writes it.
        is_unknown: whether the model reads the value before alike without a field that it does not write.
        at: the place of the values in the state.

    Raises:
        InvalidData: it is not clear which item of a list has to keep such a field.
    """
    if _is_object(before) and _is_object(known) and _is_object(now):
        whole = dict(now)
        for key, each in before.items():
            place = (*at, key)
            if key in known and key in now:
                whole[key] = with_unknown(each, known[key], now[key], is_unknown, place)
            elif key not in known and key not in now and is_unknown(place):
                whole[key] = each
        return whole
    if _is_list(before) and _is_list(known) and _is_list(now) and len(before) == len(known):
        return _items(before, known, now, is_unknown, at)
    return now


def _items(
    before: list[Any], known: list[Any], now: list[Any], is_unknown: Callable[[Place], bool], at: Place
) -> list[Any]:
    """The items of a list: each that is as before keeps its fields; so does one that alone was changed in its place."""
    whole = list(now)
    left = dict(enumerate(known))
    changed: list[int] = []
    for index, each in enumerate(now):
        old = index if left.get(index) == each else next((old for old in left if left[old] == each), None)
        if old is None:
            changed.append(index)
        else:
            whole[index] = with_unknown(before[old], left.pop(old), each, is_unknown, (*at, old))
    if changed == [*left] and len(left) == 1:
        [index] = changed
        whole[index] = with_unknown(before[index], known[index], now[index], is_unknown, (*at, index))
    elif changed:
        for old in left:
            kept = with_unknown(before[old], known[old], known[old], is_unknown, (*at, old))
            if kept != known[old]:
                raise _unclear_error((*at, old))
    return whole


def _unclear_error(at: Place) -> InvalidData:
    name = ".".join(map(str, at))
    return InvalidData(
        f"the stored {name!r} has fields that the model does not know, and it is not clear which item keeps them: "
        "change one item at a time, or let the model allow extra fields"
    )


def without(value: Any, place: Place) -> Any:
    """A value without one of its fields."""
    key, *rest = place
    if _is_list(value):
        items = list(value)
        items[int(key)] = without(items[int(key)], tuple(rest))
        return items
    copy = dict(value)
    if rest:
        copy[key] = without(copy[key], tuple(rest))
    else:
        del copy[key]
    return copy


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
