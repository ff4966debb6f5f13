"""Which event loop a task runs in."""

from __future__ import annotations

import sys


def is_in_trio() -> bool:
    """Whether this code runs in a task of trio, also where trio is a guest of another event loop."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())
