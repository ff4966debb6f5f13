"""The texts that diagrams and tables show: in one line, and not too long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from unicodedata import east_asian_width

from tai_state.machines.edges import Edge, causes
from tai_state.machines.outline import StateOutline

TEXT_MAX: Final = 120
"""How many characters of a name or a text are shown."""

NO_RULE: Final = "by no rule"


def label_of(edge: Edge) -> str:
    """What an edge bears: what takes the step, and the numbers of the steps that went this way."""
    words = NO_RULE if edge.rule is None else causes(edge.rule)
    steps = f"step{'s' * (len(edge.steps) > 1)} {', '.join(map(str, edge.steps))}" if edge.steps else ""
    return ", ".join(filter(None, (words, steps)))


def classes_of(state: StateOutline, here: str | None, visited: Sequence[str]) -> set[str]:
    """What is marked of a state."""
    marks = {
        "failure": state.is_failure,
        "terminal": state.is_terminal,
        "visited": state.name in visited,
        "current": state.name == here,
    }
    return {name for name, is_so in marks.items() if is_so}


def end_name(name: str | None) -> str:
    """The name of a state at an end of an edge; None: any."""
    return "any state" if name is None else name


def shown(text: str) -> str:
    """A text in one line, without what cannot be seen, and not too long."""
    line = "".join(each if each.isprintable() else "?" for each in " ".join(text[: 2 * TEXT_MAX].split()))
    return line if len(line) <= TEXT_MAX and len(text) <= 2 * TEXT_MAX else f"{line[: TEXT_MAX - 1]}…"


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(2 if east_asian_width(each) in {"W", "F"} else 1 for each in text)
