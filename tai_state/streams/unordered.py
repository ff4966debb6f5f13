"""One order for the items of sets, so that equal values have equal texts.

Python iterates a set in an order of its own, which differs between processes. A text that depends on it would make a
different change of a request that is repeated with the same value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo

from tai_state.streams.likeness import content, is_model
from tai_state.values.json import encode

_SETS: Final = frozenset({"set", "frozenset"})


def may_hold_sets(schema: Any) -> bool:
    """Whether values of a pydantic core schema may have sets in them."""
    left: list[Any] = [schema]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if isinstance(each, Mapping | list | tuple) and id(each) not in seen:  # pyright: ignore[reportUnknownArgumentType]
            seen.add(id(each))  # pyright: ignore[reportUnknownArgumentType]
            if isinstance(each, Mapping) and each.get("type") in _SETS:  # pyright: ignore[reportUnknownMemberType]
                return True
            left += each.values() if isinstance(each, Mapping) else each
    return False


def in_one_order(value: Any, data: Any) -> Any:
    """The JSON of a value, with the items of its sets in the order of their texts.

    Args:
        value: a value of a model.
        data: what pydantic has just dumped of it, and so with the items in the order of the sets.
    """
    if isinstance(value, RootModel):
        return in_one_order(value.root, data)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    if isinstance(data, dict):
        return _fields_in_order(value, data)  # pyright: ignore[reportUnknownArgumentType]
    if not isinstance(data, list) or not isinstance(value, AbstractSet | list | tuple | deque):
        return data  # pyright: ignore[reportUnknownVariableType]
    if len(data) != len(value):  # pyright: ignore[reportUnknownArgumentType] - a serializer of the model's own
        return data  # pyright: ignore[reportUnknownVariableType]
    items = list(map(in_one_order, value, data))  # pyright: ignore[reportUnknownArgumentType]
    return sorted(items, key=encode) if isinstance(value, AbstractSet) else items


def _fields_in_order(value: Any, data: dict[str, Any]) -> dict[str, Any]:
    if is_model(value):
        known: Mapping[str, FieldInfo] = type(value).model_fields if isinstance(value, BaseModel) else {}
        ordered = dict(data)
        for name, each in content(value).items():
            alias = known[name].serialization_alias if name in known else None
            key = name if alias is None else alias
            if key in data:
                ordered[key] = in_one_order(each, data[key])
        return ordered
    if isinstance(value, Mapping) and len(value) == len(data):  # pyright: ignore[reportUnknownArgumentType]
        return dict(zip(data, map(in_one_order, value.values(), data.values()), strict=True))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return data
