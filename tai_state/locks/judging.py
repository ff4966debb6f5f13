"""Judging what became of a commit on locks: from how they stand, what it means. Pure.

``tests/locks/settling.txt`` has the tables, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from tai_state.locks.sighting import Standing


class Outcome(Enum):
    """What a look at locks means for who wants to acquire, renew or return them."""

    OURS = "ours"
    FREE = "free"
    HELD = "held"
    UNMOVED = "unmoved"
    GONE = "gone"
    TAKEN = "taken"


def judge_acquiring(standings: Mapping[str, Standing | None], nonce: str) -> Outcome:
    """Of locks that are to be acquired together: OURS, FREE (to be taken) or HELD.

    One commit writes all of them, so where our nonce stands on one, all of them are ours.
    """
    there = [each for each in standings.values() if each is not None]
    if any(each.record.nonce == nonce for each in there):
        return Outcome.OURS
    return Outcome.FREE if all(each.remaining_seconds <= 0 for each in there) else Outcome.HELD


def judge_keeping(standings: Mapping[str, Standing | None], fence: int) -> tuple[Outcome, str | None]:
    """Of locks that were acquired together: UNMOVED, GONE or TAKEN; in the last two cases, which.

    A lock's revision, once gone, never comes back.
    """
    for resource, standing in standings.items():
        if standing is None:
            return Outcome.GONE, resource
        if standing.lock.revision != fence:
            return Outcome.TAKEN, resource
    return Outcome.UNMOVED, None


def judge_returning(
    standings: Mapping[str, Standing | None], fence: int, *, was_held: bool, was_unanswered: bool
) -> bool:
    """Of locks that are not all as they were acquired: whether it was we who returned them.

    None of them is ours any more, and the answer to a deletion of ours was lost. Or there are none, and they were held
    until now: then nobody else can have had them, and this was the second answer to our own deletion.

    Args:
        standings: how they stand.
        fence: the revision at which they were acquired.
        was_held: our time was not over when the first deletion was sent.
        was_unanswered: the answer to one of the deletions was lost.
    """
    there = [each for each in standings.values() if each is not None]
    if was_unanswered:
        return all(each.lock.revision != fence for each in there)
    return was_held and not there
