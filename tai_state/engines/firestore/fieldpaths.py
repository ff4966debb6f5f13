"""Paths of keys into a document's fields, as Firestore writes them."""

from __future__ import annotations

import re
from typing import Final

_SIMPLE: Final = re.compile("[A-Za-z_][A-Za-z_0-9]*")


def quoted(dotted: str) -> str:
    """A dotted path, with backticks around each key that is not a plain name."""
    return ".".join([key if _SIMPLE.fullmatch(key) else _in_quotes(key) for key in dotted.split(".")])


def _in_quotes(key: str) -> str:
    escaped = key.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"
