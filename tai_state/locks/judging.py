"""Judging the outcome of a commit on locks from how the locks stand now. Pure.

``tests/locks/settling.txt`` has the tables, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from tai_state.locks.sighting import Standing


class Outcome(Enum):
    """What a look at locks means for a caller that acquires, renews or returns them."""

    OURS = "ours"
    FREE = "free"
    HELD = "held"
    UNMOVED = "unmoved"
    GONE = "gone"
    TAKEN = "taken"


def judge_acquiring(standings: Mapping[str, Standing | None], nonce: str) -> Outcome:
    """Judge locks that are to be acquired together: OURS, FREE (they can be taken) or HELD.

    One commit writes all of them, so if our nonce is on one of them, all are ours.
    """
    there = [each for each in standings.values() if each is not None]
    if any(each.record.nonce == nonce for each in there):
        return Outcome.OURS
    return Outcome.FREE if all(each.remaining_seconds <= 0 for each in there) else Outcome.HELD


def judge_keeping(standings: Mapping[str, Standing | None], fence: int) -> tuple[Outcome, str | None]:
    """Judge locks that were acquired together: UNMOVED, GONE or TAKEN; for the last two, also which resource.

    A revision that a lock has left never comes back.
    """
    for resource, standing in standings.items():
        if standing is None:
            return Outcome.GONE, resource
        if standing.lock.revision != fence:
            return Outcome.TAKEN, resource
    return Outcome.UNMOVED, None


def judge_returning(
    standings: Mapping[str, Standing | None], fence: int, *, is_broken: bool, was_held: bool, was_unanswered: bool
) -> bool:
    """Judge locks that are not all as they were acquired: whether we have returned them ourselves.

    Not if one of them was broken: our deletion is refused then. Otherwise we have in two cases. Either none of them is
    ours any more, and the answer to a deletion of ours was lost. Or all of them are gone, and our lease was in force
    when we sent the deletion: then no other caller can have had them, and the refusal answers a second copy of our
    deletion.

    Args:
        standings: how the locks stand.
        fence: the revision at which they were acquired.
        is_broken: whether there is a note that one of them was broken.
        was_held: whether the lease was in force when the first deletion was sent.
        was_unanswered: whether the answer to one of the deletions was lost.
    """
    if is_broken:
        return False
    there = [each for each in standings.values() if each is not None]
    if was_unanswered:
        return all(each.lock.revision != fence for each in there)
    return was_held and not there
