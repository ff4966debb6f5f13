"""What to do about damaged documents among sound ones: report them and go on, or raise."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from tai_state.errors import Inconsistent

Report: TypeAlias = Callable[[Inconsistent], None]
"""Called with what is wrong with a document. If it returns, the document is left out."""


_ADVICE = re.compile(": (?:run|restore) ")


def fault(error: Inconsistent) -> str:
    """What is wrong with a document, without the advice at the end."""
    return _ADVICE.split(error.what)[0]


def raising(error: Inconsistent) -> NoReturn:
    """A report that ends the work."""
    raise error
