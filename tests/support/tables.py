"""Tables in text files: each row says in words what a judgement gives. They are read, compared and written anew.

Between sentences, lines with `` => `` are rows, the first of them the header. What stands before the arrow describes a
case, what stands after it is the answer. With ``REWRITE_TABLES=1`` in the environment the answers are written as they
are found, so that the difference can be read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ARROW = " => "
BAR = " | "
INDENT = "    "

Cells = dict[str, str]


class Row(NamedTuple):
    """One row.

    Attributes:
        line: where it stands in the file, counted from 1.
        given: the case, by the names of the columns.
        said: the answers, likewise.
    """

    line: int
    given: Cells
    said: Cells

    def __str__(self) -> str:
        return f"line {self.line}: {BAR.join(f'{name}: {cell}' for name, cell in self.given.items())}"


class Mismatch(NamedTuple):
    """A row of which an answer is another one than it says."""

    row: Row
    found: Cells

    def __str__(self) -> str:
        wrong = [name for name, answer in self.found.items() if self.row.said[name] != answer]
        lines = [f"    {name}: says {self.row.said[name]!r}, found {self.found[name]!r}" for name in wrong]
        return "\n".join([str(self.row), *lines])


Answer = Callable[[Cells, Iterable[str]], Cells]
"""From the case and the names of the answers to the answers."""


def rows(path: Path) -> Iterator[Row]:
    """All rows of all tables."""
    header: tuple[list[str], list[str]] | None = None
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if ARROW not in line:
            header = None
            continue
        given, said = ([cell.strip() for cell in side.split("|")] for side in line.split(ARROW))
        if header is None:
            header = (given, said)
            continue
        yield Row(number, dict(zip(header[0], given, strict=True)), dict(zip(header[1], said, strict=True)))


def mismatches(table: Iterable[Row], answer: Answer) -> Iterator[Mismatch]:
    """The rows that say something else than what is found."""
    for row in table:
        found = answer(row.given, row.said)
        if found != row.said:
            yield Mismatch(row, found)


def check(path: Path, answer: Answer) -> None:
    """Every row says what is found; or is made to, where that is asked for.

    Raises:
        AssertionError: with each row that does not, and both answers.
    """
    wrong = list(mismatches(rows(path), answer))
    if os.environ.get("REWRITE_TABLES"):
        rewrite(path, {each.row.line: each.found for each in wrong})
        return
    assert not wrong, "\n".join(["", *map(str, wrong)])


def rewrite(path: Path, answers: dict[int, Cells]) -> None:
    """Write the table with these answers in their lines, each column as wide as it needs to be."""
    lines = path.read_text().splitlines()
    for number, found in answers.items():
        given = lines[number - 1].split(ARROW)[0]
        lines[number - 1] = f"{given}{ARROW}{BAR.join(found.values())}"
    path.write_text("\n".join(_aligned(lines)).rstrip() + "\n")


def _aligned(lines: list[str]) -> Iterator[str]:
    table: list[list[str]] = []
    for line in [*lines, ""]:
        if ARROW in line:
            table.append([f"{side}".strip() for part in line.split(ARROW) for side in (*part.split("|"), ARROW)][:-1])
            continue
        if table:
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            for cells in table:
                yield _line(cells, widths)
        table = []
        yield line


def _line(cells: list[str], widths: list[int]) -> str:
    """One row, with bars between its cells but beside the arrow."""
    text = INDENT
    for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        if cell == ARROW.strip():
            text += ARROW
        else:
            text += (BAR if index and cells[index - 1] != ARROW.strip() else "") + cell.ljust(width)
    return text.rstrip()
