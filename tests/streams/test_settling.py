"""What a look at a change means: the table in ``settling.txt``, row by row."""

from __future__ import annotations

from pathlib import Path

from ..support.judged_changes import answers
from ..support.tables import check

TABLE = Path(__file__).parent / "settling.txt"


def test_the_table_says_what_is_judged():
    """The verdict on each row is the one that the table gives."""
    check(TABLE, answers)
