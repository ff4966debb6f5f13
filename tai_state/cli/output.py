"""What commands print: JSON for programs, tables for people. Data goes to stdout, all else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tai_state.errors import TaiStateError
from tai_state.values.times import format_time


def plain(value: Any) -> Any:
    """A value of this library as plain JSON, times as text."""
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}  # pyright: ignore
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]  # pyright: ignore
    return value


def print_json(value: Any) -> None:
    """One JSON text on stdout."""
    print(json.dumps(plain(value), ensure_ascii=False, allow_nan=False), flush=True)


def say(text: str) -> None:
    """A line for people on stderr: progress, or what happened."""
    print(visible(text), file=sys.stderr, flush=True)


def print_error(error: BaseException, *, as_json: bool) -> None:
    """An error on stderr, with its fields where a program reads it."""
    message = str(error) or type(error).__name__
    if as_json:
        fields = plain(error.fields()) if isinstance(error, TaiStateError) else {}
        body = {"error": {**fields, "type": type(error).__name__, "message": message}}
        print(json.dumps(body, ensure_ascii=False, default=str), file=sys.stderr, flush=True)
    else:
        say(f"tai-state: {message}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows for people. Cells wrap to the terminal; piped, each row stays on one line."""
    console = Console()
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell(each)) for each in row))
    console.print(table, width=None if console.is_terminal else _WIDE, no_wrap=not console.is_terminal)


def cell(value: Any) -> str:
    """A value as text in a table: no quotes around text, no control characters."""
    value = plain(value)
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def visible(text: str) -> str:
    """Text whose control characters cannot drive the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)


_WIDE = 10_000
