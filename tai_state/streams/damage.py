"""What to do about damaged documents among sound ones: report them and go on, or raise."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from tai_state.engines.api import ANYTHING, At, Document, Require
from tai_state.errors import CorruptDocument, Inconsistent

Report: TypeAlias = Callable[[Inconsistent], None]
"""Called with what is wrong with a document. If it returns, the document is left out."""


_ADVICE = re.compile(": (?:run|restore) ")


def fault(error: Inconsistent) -> str:
    """What is wrong with a document, without the advice at the end."""
    return _ADVICE.split(error.what)[0]


def misplaced(path: str, kind: str) -> CorruptDocument:
    """What is wrong with a document whose path none of its kind can have: so no caller's id leads to it."""
    return CorruptDocument(path, f"is not the path of {kind}: restore a backup")


def as_read(document: Document) -> Require:
    """What to require for the removal of a document that may be damaged: damage can hide its revision, too."""
    return At(document.revision) if document.revision else ANYTHING


def raising(error: Inconsistent) -> NoReturn:
    """A report that ends the work."""
    raise error
