"""Carrying over the fields of a state that a model does not know, so that a change through the model keeps them.

A newer release of an application may have stored fields that the model of an older one lacks. All values here are JSON:
the state as stored before the change, the same as the model writes it (*known*), and the new one as the model writes
it. What stands in the first and not in the second is kept, unless the model has read it under another name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias, TypeGuard

import msgspec

from tai_state.errors import InvalidData
from tai_state.values.json import encode

Place: TypeAlias = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""

PROBES_MAX: Final = 100
"""How often a state is read without some of its fields, to find out which of them the model does not know."""


class Reader(msgspec.Struct, frozen=True):
    """What a model makes of a state.

    Attributes:
        is_alike: whether the model reads other data as it reads the state.
        rewritten: other data as the model reads and writes it; None if it does not fit.
    """

    is_alike: Callable[[Any], bool]
    rewritten: Callable[[Any], Any]


class Rest(msgspec.Struct):
    """What the model does not know, in a value that it knows.

    Attributes:
        fields: the fields that are kept, by their keys.
        inner: what is kept in the fields or items that the model knows, by the model's keys and indexes.
        is_unclear: whether it is not known which item of a list anything in here belongs to.
    """

    fields: dict[str, Any] = {}
    inner: dict[str | int, Rest] = {}
    is_unclear: bool = False

    def is_empty(self) -> bool:
        """Whether nothing is kept."""
        return not self.fields and all(each.is_empty() for each in self.inner.values())


def has_all(before: Any, now: Any) -> bool:
    """Whether each field of a value is also in another one, at every depth; then nothing has to be carried over."""
    if _is_object(before) and _is_object(now):
        return before.keys() <= now.keys() and all(
            has_all(each, now[key]) for key, each in before.items() if isinstance(each, dict | list)
        )
    if _is_list(before) and _is_list(now):
        return before == now or (len(before) <= len(now) and all(map(has_all, before, now)))
    return True


def with_unknown(before: Any, known: Any, now: Any, reader: Reader) -> Any:
    """A value with those fields of the value before it that the model does not know.

    Args:
        before: the value before, as stored.
        known: the value before, as the model writes it.
        now: the new value, as the model writes it.
        reader: reads the value before without some of its fields, or in another order.

    Raises:
        InvalidData: it is not clear which item of a list has to keep such a field, or where it stood.
    """
    return _kept(Finding(before, reader).rest(known), known, now, ())


def without_rivals(whole: Any, now: Any, is_alike: Callable[[Any], bool]) -> Any:
    """A value with carried fields, without those that the model reads in place of what it has written.

    A field that holds a default may be missed without a trace. It is carried then, though the model knows it: by a
    former name of a field, which now has another value.

    Args:
        whole: the new value with the carried fields.
        now: the new value, as the model writes it.
        is_alike: whether the model reads other data as it reads the new value.
    """
    kinds = _by_kind(_added(whole, now, ()))
    rivals: list[Place] = []
    for kind in kinds[:PROBES_MAX]:
        others = [place for each in kinds if each is not kind for place in each]
        if not is_alike(_without_all(whole, others)):
            rivals += kind
    return _without_all(whole, rivals)


class Finding:
    """Finds what the model does not know.

    Args:
        before: the value, as stored.
        reader: what the model makes of it.
    """

    def __init__(self, before: Any, reader: Reader) -> None:
        self._before = before
        self._reader = reader
        self._found: list[tuple[Place, Rest]] = []
        self._probes = 0

    def rest(self, known: Any) -> Rest:
        """What the model does not know.

        Args:
            known: the value as the model writes it.

        Raises:
            InvalidData: it cannot be told what the model knows, or where.
        """
        rest = self._compared(self._before, known, (), ())
        unknown = self._removable([place for place, _ in self._found])
        for place, where in self._found:
            if place not in unknown:
                inside = [*_leaves(_at(self._before, place), place)]
                if self._removable(inside):
                    raise _unclear_error(place)
                del where.fields[str(place[-1])]
        return rest

    def _compared(self, before: Any, known: Any, at: Place, known_at: Place) -> Rest:
        """What stands in a value and not in the same one as the model writes it, whether the model knows it or not."""
        rest = Rest({}, {})
        if _is_object(before) and _is_object(known):
            partners = _partners(before, known)
            for key, each in before.items():
                partner = key if key in known else partners.get(key)
                if partner is None:
                    rest.fields[key] = each
                    self._found.append(((*at, key), rest))
                else:
                    rest.inner[partner] = self._compared(each, known[partner], (*at, key), (*known_at, partner))
        elif _is_list(before) and _is_list(known) and not has_all(before, known):
            order = self._order(before, known, at, known_at)
            rest.is_unclear = order is None
            for index, place in enumerate(range(min(len(before), len(known))) if order is None else order):
                if place is not None:
                    inner = self._compared(before[place], known[index], (*at, place), (*known_at, index))
                    rest.inner[index] = inner
        return rest

    def _order(self, before: list[Any], known: list[Any], at: Place, known_at: Place) -> Sequence[int | None] | None:
        """For each item that the model writes, the index of the item that it has read; None if that is not clear."""
        if len(before) == len(known):
            same = range(len(known))
            if all(map(_covers, known, before)):
                return same
            turned = self._reader.rewritten(_with(self._before, at, before[::-1]))
            if turned is not None and _at(turned, known_at) == known[::-1]:
                return same
        left = [*range(len(before))]
        order: list[int | None] = []
        for item in known:
            fits = [index for index in left if _covers(item, before[index])]
            if len(fits) != 1 and any(encode(before[each]) != encode(before[fits[0]]) for each in fits):
                return None
            order.append(fits[0] if fits else None)
            left = [index for index in left if index not in fits[:1]]
        return order if len(known) < len(before) or None not in order else None

    def _removable(self, places: Sequence[Place]) -> set[Place]:
        """The places without which the model reads the value alike."""
        if not places:
            return set()
        if self._probe(places):
            return set(places)
        found: set[Place] = set()
        for group in _by_kind(places):
            if self._probe(group):
                found.update(group)
            elif len(group) > 1:
                found.update(place for place in group if self._probe([place]))
        return found

    def _probe(self, places: Iterable[Place]) -> bool:
        self._probes += 1
        if self._probes > PROBES_MAX:
            raise InvalidData(
                "the stored state has too many fields that the model may not know: let the model allow extra fields"
            )
        return self._reader.is_alike(_without_all(self._before, places))


def _by_kind(places: Iterable[Place]) -> list[list[Place]]:
    """The places that differ in indexes alone, together."""
    kinds: dict[Place, list[Place]] = {}
    for place in places:
        kinds.setdefault(tuple("*" if isinstance(key, int) else key for key in place), []).append(place)
    return [*kinds.values()]


def _added(whole: Any, now: Any, at: Place) -> Iterator[Place]:
    """The places of all fields that were added to a value."""
    if _is_object(whole) and _is_object(now):
        for key, each in whole.items():
            if key in now:
                yield from _added(each, now[key], (*at, key))
            else:
                yield (*at, key)
    elif _is_list(whole) and _is_list(now):
        for index, (each, item) in enumerate(zip(whole, now, strict=True)):
            yield from _added(each, item, (*at, index))


def _partners(before: dict[str, Any], known: dict[str, Any]) -> dict[str, str]:
    """The keys under which the model writes what it has read under other ones, as far as the contents show it."""
    unread = [key for key, each in before.items() if key not in known and isinstance(each, dict | list)]
    unwritten = [key for key, each in known.items() if key not in before and isinstance(each, dict | list)]
    found: dict[str, str] = {}
    for key in unread:
        fits = [each for each in unwritten if each not in found.values() and _covers(known[each], before[key])]
        if len(fits) == 1:
            found[key] = fits[0]
    return found


def _covers(known: Any, before: Any) -> bool:
    """Whether a value as the model writes it may be that of a stored one: what both have is the same."""
    if _is_object(known) and _is_object(before):
        both = known.keys() & before.keys()
        return (bool(both) or not known or not before) and all(_covers(known[key], before[key]) for key in both)
    if _is_list(known) and _is_list(before):
        return len(known) == len(before) and all(map(_covers, known, before))
    return type(known) is type(before) and bool(known == before)


def _kept(rest: Rest, known: Any, now: Any, at: Place) -> Any:
    """A new value with what the model does not know of the one before."""
    if rest.is_empty():
        return now
    if rest.is_unclear:
        raise _unclear_error(at)
    if _is_object(known) and _is_object(now):
        whole = {**now, **{key: each for key, each in rest.fields.items() if key not in now}}
        for key, inner in rest.inner.items():
            if key in now:
                whole[str(key)] = _kept(inner, known[str(key)], now[str(key)], (*at, key))
        return whole
    if _is_list(known) and _is_list(now):
        return _items(rest, known, now, at)
    return now


def _items(rest: Rest, known: list[Any], now: list[Any], at: Place) -> list[Any]:
    """The items of a list: each that is as before keeps its fields; so does one that alone was changed in its place."""
    nothing = Rest()
    whole = list(now)
    left = _by_text(known)
    changed: list[int] = []
    for text, places in _by_text(now).items():
        olds = left.pop(text, [])
        rests = [rest.inner.get(old, nothing) for old in olds]
        are_same = all(each == rests[0] for each in rests) and len(places) <= len(olds)
        if olds and len(olds) != len(places) and not are_same and not all(each.is_empty() for each in rests):
            raise _unclear_error((*at, olds[0]))
        for place, old in zip(places, olds, strict=False):
            whole[place] = _kept(rest.inner.get(old, nothing), known[old], now[place], (*at, old))
        changed += places[len(olds) :]
    gone = [old for olds in left.values() for old in olds]
    if changed == gone and len(gone) == 1:
        [index] = gone
        whole[index] = _kept(rest.inner.get(index, nothing), known[index], now[index], (*at, index))
    elif changed:
        for old in gone:
            if not rest.inner.get(old, nothing).is_empty():
                raise _unclear_error((*at, old))
    return whole


def _by_text(items: list[Any]) -> dict[str, list[int]]:
    """The places of equal items, by their text."""
    found: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        found.setdefault(encode(item), []).append(index)
    return found


def _unclear_error(at: Place) -> InvalidData:
    name = ".".join(map(str, at))
    return InvalidData(
        f"the stored {name!r} has fields that the model does not know, and it is not clear where they belong: change "
        "one item at a time, or let the model allow extra fields"
    )


def _at(value: Any, place: Place) -> Any:
    """What stands at a place; None if there is no such place."""
    for key in place:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _with(value: Any, place: Place, inner: Any) -> Any:
    """A value with another one at a place."""
    if not place:
        return inner
    key, *rest = place
    copy: Any = list(value) if _is_list(value) else dict(value)
    copy[key] = _with(copy[key], tuple(rest), inner)
    return copy


def _leaves(value: Any, at: Place) -> Iterator[Place]:
    """The places of all fields in a value, at every depth, whose values are no objects with fields of their own."""
    if _is_list(value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*at, index))
    elif _is_object(value):
        for key, each in value.items():
            if isinstance(each, dict | list) and each:
                yield from _leaves(each, (*at, key))
            else:
                yield (*at, key)


def _without_all(value: Any, places: Iterable[Place]) -> Any:
    """A value without some of its fields."""
    for place in places:
        value = without(value, place)
    return value


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
