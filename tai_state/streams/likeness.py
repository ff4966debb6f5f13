"""Comparing two values at every depth, by class and by content, regardless of what their classes call equal."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel


def alike(one: Any, other: Any) -> bool:
    """Whether two values are the same; models must also have the same classes.

    Private attributes of a model, and fields excluded from its dumps, are ignored. Two times are the same if they are
    the same moment with the same offset. Objects whose class defines no equality are compared by their attributes.
    """
    if one is other:
        return True
    if is_model(one) or is_model(other):
        return type(one) is type(other) and alike(content(one), content(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return _are_alike_by_key(one, other)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(one, datetime) and isinstance(other, datetime) and one.tzinfo and other.tzinfo:
        return one.astimezone(UTC) == other.astimezone(UTC) and one.utcoffset() == other.utcoffset()
    return bool(one == other) or _are_alike_inside(one, other)  # pyright: ignore[reportUnknownArgumentType]


def agree(one: Any, other: Any, again: Any) -> bool:
    """Whether two JSON values are the same wherever the second one and a further reading of it are.

    Args:
        one: the first value.
        other: the second value.
        again: the second value, as it was read again.
    """
    if type(one) is type(other) is type(again) is dict:
        return one.keys() == other.keys() and all(agree(each, other[key], again.get(key)) for key, each in one.items())
    if type(one) is type(other) is type(again) is list:
        return len(one) == len(other) and (len(other) != len(again) or all(map(agree, one, other, again)))
    return bool(one == other or other != again)


def _are_alike_by_key(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    if isinstance(one, OrderedDict) and isinstance(other, OrderedDict) and [*one] != [*other]:
        return False  # to them, the order is a part of the content
    return one.keys() == other.keys() and all(alike(each, other[key]) for key, each in one.items())


def _are_alike_inside(one: object, other: object) -> bool:
    """Whether two objects of a class that defines no equality have the same attributes."""
    has_equality = getattr(type(one), "__eq__", None) is not object.__eq__
    if has_equality or type(one) is not type(other) or not hasattr(one, "__dict__"):
        return False
    return _are_alike_by_key(vars(one), vars(other))


def is_model(value: Any) -> bool:
    """Whether a value is a pydantic model or a dataclass."""
    return isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type))


def content(model: Any) -> dict[str, Any]:
    """The fields of a model that its dumps include."""
    if not isinstance(model, BaseModel):
        return {each.name: getattr(model, each.name) for each in fields(model)}
    named = {name: getattr(model, name) for name, each in type(model).model_fields.items() if not each.exclude}
    return {**named, **(model.model_extra or {})}
