"""The filters of a scan, for engines that filter in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tai_state.engines.api import Document, Where
from tai_state.errors import CorruptDocument

_MISSING = object()


def field(fields: Any, dotted: str) -> Any:
    """The value at a dotted path of keys; where there is none, something that equals no JSON value."""
    for key in dotted.split("."):
        if not isinstance(fields, dict) or key not in fields:
            return _MISSING
        fields = fields[key]  # pyright: ignore[reportUnknownVariableType]
    return fields  # pyright: ignore[reportUnknownVariableType]


def passes(fields: Any, where: Sequence[Where]) -> bool:
    """Whether a document's fields meet every filter; ``true`` is not ``1`` here."""
    return all(any(_same(field(fields, each.field), value) for value in each.values) for each in where)


def is_chosen(document: Document, where: Sequence[Where]) -> bool:
    """Whether a document meets every filter. A damaged one is chosen, and so whoever looks at it learns of it."""
    try:
        return passes(document.fields(), where)
    except CorruptDocument:
        return True


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)
