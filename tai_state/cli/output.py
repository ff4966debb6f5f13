"""What commands print: JSON for programs, tables for people. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import zip_longest
from math import inf
from typing import Any, Generic, Self, TypeVar

import msgspec
from rich.cells import cell_len

from tai_state.errors import TaiStateError
from tai_state.values.times import format_time

T = TypeVar("T")

_GAP = "  "
_MEASURED_ROWS = 200
"""How many rows decide how wide the columns of a long table are."""
_WHOLE_MAX = 30
"""Cells up to this width, such as a time, are not broken if the terminal has room for the other columns."""
_REST_MIN = 20
_WIDTH_MIN = 2
_PROGRESS_SECONDS = 10.0
"""The time between two lines of progress if stderr is not a terminal."""
_ALIGNED_MAX = 80
"""In piped output, a longer cell pushes the next ones aside instead of widening its whole column."""

_NAMES = {"governor_id": "governor"}
"""What fields are called here, where that is not their name in the library."""

_INVISIBLE = re.compile("[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""Characters that JSON does not escape and a terminal may act on: more control characters, changes of direction."""


def plain(value: Any) -> Any:
    """A value of this library as plain JSON, with times as text; a governor's id is called ``governor``."""
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, msgspec.Struct):
        names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        return {_NAMES.get(encoded, encoded): plain(getattr(value, name)) for name, encoded in names}
    if isinstance(value, Mapping):
        items: Any = value.items()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        return {str(key): plain(each) for key, each in items}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    return value


class OutputError(Exception):
    """The output cannot be written to stdout."""


@contextmanager
def _onto_stdout() -> Generator[None, None, None]:
    """Turn a failed write to stdout into an ``OutputError``. A reader that closes the pipe is not a failure."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"the output cannot be written: {error.strerror or error}") from error


@_onto_stdout()
def print_json(value: Any) -> None:
    """Print one JSON text on stdout."""
    print(_json(plain(value)), flush=True)


async def print_items(
    items: AsyncIterator[T],
    *,
    as_json: bool,
    fields: Callable[[T], Any],
    columns: Sequence[str],
    row: Callable[[T], Sequence[Any]],
) -> bool:
    """Print items as they come, each as JSON in an array, or as a row for people. Returns whether there were any.

    If an error ends the items, those before it are printed, and the array is closed.
    """
    printer = _JsonPrinter(fields) if as_json else _RowPrinter(columns, row)
    try:
        async for item in items:
            printer.put(item)
    except TaiStateError:
        if printer.count:
            printer.end()
        raise
    if printer.count or as_json:
        printer.end()
    return printer.count > 0


class _JsonPrinter(Generic[T]):
    """Prints an array of JSON, item by item."""

    def __init__(self, fields: Callable[[T], Any]) -> None:
        self.count = 0
        self._fields = fields

    @_onto_stdout()
    def put(self, item: T) -> None:
        print(", " if self.count else "[", _json(plain(self._fields(item))), sep="", end="")
        self.count += 1

    @_onto_stdout()
    def end(self) -> None:
        print("]" if self.count else "[]", flush=True)


class _RowPrinter(Generic[T]):
    """Prints a table, row by row. The first rows decide how wide its columns are."""

    def __init__(self, columns: Sequence[str], row: Callable[[T], Sequence[Any]]) -> None:
        self.count = 0
        self._row = row
        self._first = [list(columns)]
        self._widths: list[int] = []

    def put(self, item: T) -> None:
        row = [cell(each) for each in self._row(item)]
        self.count += 1
        if self._widths:
            self._print([row])
        else:
            self._first.append(row)
            if self.count == _MEASURED_ROWS:
                self._print_first()

    def end(self) -> None:
        if not self._widths:
            self._print_first()
        self._print([])

    def _print_first(self) -> None:
        self._widths = _widths(self._first)
        self._print(self._first)

    @_onto_stdout()
    def _print(self, rows: Sequence[Sequence[str]]) -> None:
        for row in rows:
            _print_row(row, self._widths, wrap=sys.stdout.isatty())
        sys.stdout.flush()


@_onto_stdout()
def print_line(text: str) -> None:
    """Print a line for people on stdout: a result."""
    print(visible(text), flush=True)


def say(text: str) -> None:
    """Print a line for people on stderr: progress, or what happened."""
    print(visible(text), file=sys.stderr, flush=True)


class Progress:
    """Shows the progress of long work on stderr.

    On a terminal, one line is rewritten, so the texts shown must not become shorter. Elsewhere, a line is printed now
    and then, and the last one at the end.
    """

    def __enter__(self) -> Self:
        self._is_open = False
        self._said_at = -inf
        self._unsaid = ""
        return self

    def __exit__(self, *exc: object) -> None:
        if self._is_open:
            print(file=sys.stderr, flush=True)
        elif self._unsaid:
            say(self._unsaid)

    def show(self, text: str) -> None:
        """Show how far the work has come."""
        if sys.stderr.isatty():
            print(f"\r{visible(text)}", end="", file=sys.stderr, flush=True)
            self._is_open = True
        elif time.monotonic() - self._said_at >= _PROGRESS_SECONDS:
            say(text)
            self._said_at, self._unsaid = time.monotonic(), ""
        else:
            self._unsaid = text


def print_error(error: BaseException, *, as_json: bool, expected: bool = True) -> None:
    """Print an error on stderr; as JSON, with its fields."""
    message = "".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
    if not expected:
        message = f"an unexpected {type(error).__name__}: {message}"
    if as_json:
        fields: dict[str, Any] = plain(error.fields()) if isinstance(error, TaiStateError) else {}
        body = {"error": {**fields, "type": type(error).__name__, "message": message}}
        print(_json(body), file=sys.stderr, flush=True)
    else:
        say(f"tai-state: {message}")


@_onto_stdout()
def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows for people; nothing is cut off. Cells wrap on a terminal; in piped output, each row is one line."""
    table = [list(columns), *([cell(each) for each in row] for row in rows)]
    widths = _widths(table)
    for row in table:
        _print_row(row, widths, wrap=sys.stdout.isatty())
    sys.stdout.flush()


def print_facts(facts: Mapping[str, Any], *, as_json: bool, columns: tuple[str, str] = ("what", "count")) -> None:
    """Print facts by name: as one JSON object, or one fact a row under these two columns."""
    if as_json:
        print_json(facts)
    else:
        print_table(columns, list(facts.items()))


def cell(value: Any) -> str:
    """A value as text in a table, without quotes around text and without control characters."""
    return visible(value if isinstance(value, str) else _text(plain(value)))


def visible(text: str) -> str:
    """A text as one line, with control characters escaped so that they cannot drive the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(ord(char)) for char in text)


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    return _INVISIBLE.sub(lambda found: _escaped(ord(found.group())), text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    """How wide to print the columns of a table."""
    natural = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    if sys.stdout.isatty():
        return _fitted(natural, shutil.get_terminal_size().columns)
    return [min(each, _ALIGNED_MAX) for each in natural]


def _fitted(natural: Sequence[int], width: int) -> list[int]:
    """Column widths that fit a terminal: short columns get their whole width, and the others share the rest."""
    room = width - len(_GAP) * (len(natural) - 1)
    long = [index for index, each in enumerate(natural) if each > _WHOLE_MAX]
    rest = room - sum(each for each in natural if each <= _WHOLE_MAX)
    if rest < _REST_MIN * len(long) or not long:
        long = list(range(len(natural)))
        rest = room
    widths = list(natural)
    for done, index in enumerate(sorted(long, key=lambda each: natural[each])):
        widths[index] = min(natural[index], max(_WIDTH_MIN, rest // (len(long) - done)))
        rest -= widths[index]
    return widths


def _print_row(row: Sequence[str], widths: Sequence[int], *, wrap: bool) -> None:
    cells = [_wrapped(each, width) if wrap else [each] for each, width in zip(row, widths, strict=True)]
    for line in zip_longest(*cells, fillvalue=""):
        padded = [text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True)]
        print(_GAP.join(padded).rstrip())


def _wrapped(text: str, width: int) -> list[str]:
    if cell_len(text) <= width:
        return [text]
    # Imported only if a cell is too long for the terminal: importing it at the top would slow down every command.
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    return [line.plain for line in Text(text).wrap(Console(), width, overflow="fold")]
