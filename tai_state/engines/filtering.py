"""The filters of a scan, for engines that filter in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tai_state.engines.api import Document, Where
from tai_state.errors import CorruptDocument

_MISSING = object()


def field(fields: Any, dotted: str) -> Any:
    """The value at a dotted path of keys; if there is none, an object that differs from every JSON value."""
    for key in dotted.split("."):
        if not isinstance(fields, dict) or key not in fields:
            return _MISSING
        fields = fields[key]  # pyright: ignore[reportUnknownVariableType]
    return fields  # pyright: ignore[reportUnknownVariableType]


def passes(fields: Any, where: Sequence[Where]) -> bool:
    """Whether a document's fields meet every filter; ``true`` and ``1`` are different here."""
    return all(any(_same(field(fields, each.field), value) for value in each.values) for each in where)


def is_chosen(document: Document, where: Sequence[Where]) -> bool:
    """Whether a document meets every filter. A damaged document is chosen, so that its reader sees the damage."""
    try:
        return passes(document.fields(), where)
    except CorruptDocument:
        return True


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)
