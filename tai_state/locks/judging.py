"""Judging the outcome of a commit on locks from how the locks stand now. Pure.

``tests/locks/settling.txt`` has the tables, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from tai_state.engines.api import Document
from tai_state.locks.damage import nonce_of
from tai_state.locks.records import LOCK
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


def judge_keeping(locks: Mapping[str, Document | None], fence: int) -> tuple[Outcome, str | None]:
    """Judge locks that were acquired together: UNMOVED, GONE or TAKEN; for the last two, also which resource.

    A revision that a lock has left never comes back. What a document says does not count: it may be damaged.
    """
    for resource, lock in locks.items():
        if lock is None:
            return Outcome.GONE, resource
        if lock.revision != fence:
            return Outcome.TAKEN, resource
    return Outcome.UNMOVED, None


def judge_returning(
    locks: Mapping[str, Document | None],
    nonce: str,
    *,
    is_broken: bool,
    was_held: bool,
    was_unanswered: bool,
    is_early: bool | None,
) -> bool:
    """Judge locks that are not all as they were acquired: whether we have returned them, and not lost them.

    We have lost them if one of them was broken, or if one of them is still ours, or so damaged that it may be ours: our
    deletion removes all or none. Otherwise we have returned them in two cases:

    - The answer to a deletion of ours was lost, and it is the likeliest cause: nobody has them now, or our lease was in
      force when we sent it.
    - The refusal answers a second copy of our deletion. We know that if the look was made before our lease expired by
      the engine's clock: until then no other caller could take them over, so a caller that has them now came after us.
      Where the users of a store share no clock, ours shows it only if nobody has them now: it may have stood still.

    What cannot be told counts as lost, so that no loss is hidden. After our lease has expired, another caller may have
    taken them over, and may have released them since: no document tells of it. The note of a break may be gone, too.

    Args:
        locks: the documents of the locks.
        nonce: identifies our tenure.
        is_broken: whether there is a note that one of them was broken.
        was_held: whether the lease was in force by our clock when a deletion was first sent that may have been applied.
        was_unanswered: whether the answer to one of the deletions was lost.
        is_early: whether the look was made before our lease expired, by the engine's clock; None: there is none that
            all share.
    """
    there = [each for each in locks.values() if each is not None]
    if is_broken or any(nonce_of(each, LOCK) in (None, nonce) for each in there):
        return False
    if was_unanswered and (was_held or not there):
        return True
    if is_early is None:
        return was_held and not there
    return is_early
