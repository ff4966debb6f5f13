"""The pages of the documentation."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import tai_state

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "examples" / "README.md", *DOCS.rglob("*.md")])
_FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file it stands in.
        line: the first line of its text in the page, from 1.
        language: the first word after the fence.
        file: what follows ``file=`` after the fence: the block is that file's content.
        text: between the fences.
        output: what it must print: the ``text`` block that follows at once; None where there is none.
    """

    page: Path
    line: int
    language: str
    file: str
    text: str
    output: str | None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    found = list(_FENCE.finditer(text))
    made: list[Block] = []
    for fence, following in zip_longest(found, found[1:]):
        language, _, rest = fence["info"].partition(" ")
        output = None
        if following is not None and following["info"] == "text" and not text[fence.end() : following.start()].strip():
            output = following["text"]
        line = text.count("\n", 0, fence.start("text")) + 1
        made.append(Block(page, line, language, rest.removeprefix("file="), fence["text"], output))
    return made


def is_there(name: str) -> bool:
    """Whether a dotted name below ``tai_state`` leads to a module, an attribute, a declared field or a parameter.

    A parameter is written as in ``tai_state.open_store(root=)``.
    """
    path, _, parameter = name.removesuffix("=)").partition("(")
    parts = path.split(".")
    found: Any = tai_state
    for index, part in enumerate(parts[1:], start=2):
        if hasattr(found, part):
            found = getattr(found, part)
        elif isinstance(found, type) and _is_of_instances(found, part):
            return index == len(parts) and not parameter
        else:
            try:
                found = importlib.import_module(".".join(parts[:index]))
            except ImportError:
                return False
    return not parameter or parameter in inspect.signature(found).parameters


def _is_of_instances(found: type[Any], name: str) -> bool:
    """Whether the instances of a class have this attribute: a declared field, or one that the constructor sets."""
    declared = getattr(found, "__dataclass_fields__", {}) | getattr(found, "__annotations__", {})
    return (
        name in declared
        or re.search(rf"^ +self\.{name}\b[^\n]* = ", inspect.getsource(found), re.MULTILINE) is not None
    )
