"""What a look at locks means: the tables in ``settling.txt``, row by row, and mistakes that turn them red."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import pytest

from tai_state.engines import rewriting
from tai_state.locks import attempting, judging, keeping

from ..support.judged_locks import Parts, answers
from ..support.mistakes import Mistake, using
from ..support.tables import check, mismatches, rows

TABLE = Path(__file__).parent / "settling.txt"

ACQUIRING = (
    Mistake(
        "a lock of ours is somebody else's",
        judging,
        "if any(each.record.nonce == nonce for each",
        "if any(False for each",
    ),
    Mistake(
        "all locks must be ours",
        judging,
        "if any(each.record.nonce == nonce for each",
        "if there and all(each.record.nonce == nonce for each",
    ),
    Mistake("every lock is ours", judging, "if any(each.record.nonce == nonce for each", "if any(True for each"),
    Mistake(
        "one lock that is over is enough",
        judging,
        "if all(each.remaining_seconds <= 0 for each in there)",
        "if not there or any(each.remaining_seconds <= 0 for each in there)",
    ),
    Mistake(
        "a lock is not to be had though it is over",
        judging,
        "if all(each.remaining_seconds <= 0 for each in there)",
        "if not there",
    ),
    Mistake("every lock is to be had", judging, "if all(each.remaining_seconds <= 0 for each in there)", "if True"),
    Mistake(
        "ours counts from the look",
        attempting,
        "lock.updated_us), self._since)",
        "lock.updated_us), look.asked)",
    ),
    Mistake("a look at which it was not ours is forgotten", attempting, "        self._since = look.asked\n", ""),
    Mistake(
        "the fence is any lock's revision",
        attempting,
        "Committed(lock.revision, ",
        "Committed(lock.revision + 1, ",
    ),
    Mistake("a later sending does not count", attempting, "            self._since = sent\n", "            pass\n"),
    Mistake("an earlier try that may arrive does not count", attempting, "if not self._is_open:", "if True:"),
    Mistake("what is over counts as acquired", attempting, "and tenure.remaining_seconds > 0:", "and True:"),
    Mistake("what was over counts again", attempting, "if tenure.fence != self._over and", "if"),
    Mistake(
        "our own lock is not to be had", attempting, "replace(standing, remaining_seconds=0.0)", "replace(standing)"
    ),
    Mistake(
        "with ours, all are to be had",
        attempting,
        "if standing is None or standing.record.nonce != self.claim.nonce:",
        "if standing is None:",
    ),
    Mistake("they are to be had when the first of them is", attempting, "left = max((", "left = min(("),
    Mistake("a single try goes on", attempting, "Done(None) if is_single or outcome", "Done(None) if outcome"),
    Mistake(
        "several tries end at the look",
        attempting,
        "Done(None) if is_single or outcome is Outcome.HELD",
        "Done(None) if True",
    ),
    Mistake(
        "a lock that is held is tried",
        attempting,
        "Done(None) if is_single or outcome is Outcome.HELD",
        "Done(None) if is_single",
    ),
    Mistake(
        "a lock that is over is put without a look at its revision",
        attempting,
        "Put(path, record, At(standing.lock.revision)),",
        "Put(path, record),",
    ),
    Mistake(
        "a lock is made whatever stands there",
        attempting,
        "writes.append(Put(path, record, ABSENT))",
        "writes.append(Put(path, record))",
    ),
    Mistake(
        "a renewal is overlooked where there was none",
        attempting,
        "Check(lockbeat, ABSENT) if beat is None",
        "Check(lockbeat, At(0)) if beat is None",
    ),
    Mistake(
        "a renewal is overlooked where there was one",
        attempting,
        "else Delete(lockbeat, as_read(beat))",
        "else Check(lockbeat, ABSENT)",
    ),
)

KEEPING = (
    Mistake("a lock that is gone stands", judging, "            return Outcome.GONE, resource", "            continue"),
    Mistake("a lock that was taken stands", judging, "if lock.revision != fence:", "if False:"),
    Mistake("a lock that stands was taken", judging, "if lock.revision != fence:", "if True:"),
    Mistake(
        "it must be read who has the lock",
        keeping,
        "        except CorruptDocument:\n            standing = None\n",
        "        except CorruptDocument:\n            raise\n",
    ),
    Mistake(
        "the first lock tells of all",
        judging,
        "            return Outcome.TAKEN, resource\n",
        "            return Outcome.TAKEN, resource\n        break\n",
    ),
    Mistake(
        "a renewal that was taken from us is sent again",
        keeping,
        "return renewal(look.asked) if loss is None else Failed(loss)",
        "return renewal(look.asked)",
    ),
    Mistake(
        "a refused renewal is a loss",
        keeping,
        "return renewal(look.asked) if loss is None else Failed(loss)",
        "return Failed(loss or LockLost('a'))",
    ),
    Mistake(
        "a renewal that stands is sent again", rewriting, "if sent is not None and self._is_telling and", "if False and"
    ),
    Mistake(
        "an older renewal counts as the one that was sent",
        keeping,
        "BeatRecord(tenure.claim.nonce, tenure.beats)",
        "BeatRecord('an older nonce', tenure.beats)",
    ),
    Mistake(
        "nobody is told who has the lock",
        keeping,
        "LockLost(resource, standing.record.holder, standing.remaining_seconds)",
        "LockLost(resource)",
    ),
)

RETURNING = (
    Mistake(
        "who has deleted nothing has released it", keeping, "lambda: unsettled, is_telling=False)", "lambda: unsettled)"
    ),
    Mistake(
        "a deletion that was not answered was not made", judging, "    if was_unanswered and (", "    if False and ("
    ),
    Mistake("a deletion that was refused was made", judging, "if was_unanswered and (", "if ("),
    Mistake("whoever has it has it from us", judging, "was_unanswered and (was_held or not there)", "was_unanswered"),
    Mistake("nobody has it from us", judging, "(was_held or not there)", "not there"),
    Mistake("only if we held it is it gone by us", judging, "(was_held or not there)", "was_held"),
    Mistake("a clock that is not shared tells", judging, "    if is_early is None:", "    if False:"),
    Mistake("our clock tells of all", judging, "    if is_early is None:", "    if True:"),
    Mistake("our clock cannot stand still", judging, "return was_held and not there", "return was_held"),
    Mistake("without a clock nobody can have had it", judging, "return was_held and not there", "return not there"),
    Mistake("without a clock nothing is known", judging, "return was_held and not there", "return False"),
    Mistake("what is gone or taken was returned", judging, "    return is_early", "    return True"),
    Mistake("what is gone or taken was lost", judging, "    return is_early", "    return False"),
    Mistake("only what is gone was returned", judging, "    return is_early", "    return is_early and not there"),
    Mistake("one lock that is ours no more is enough", judging, "if is_broken or any(", "if is_broken or all("),
    Mistake("what is damaged is not ours", judging, "in (None, nonce) for", "== nonce for"),
    Mistake("what was edited is not ours", judging, "in (None, nonce) for", "is None for"),
    Mistake("a note of a break is overlooked", judging, "if is_broken or any(", "if any("),
    Mistake(
        "a note of a break is not read", keeping, "is_broken = look.documents[note] is not None", "is_broken = False"
    ),
    Mistake(
        "it is forgotten that one was not answered before",
        keeping,
        "was_unanswered = before is not None or look",
        "was_unanswered = look",
    ),
    Mistake(
        "it is forgotten when one was sent before",
        keeping,
        "was_held = tenure.is_in_time if before is None else before",
        "was_held = tenure.is_in_time",
    ),
    Mistake(
        "what has failed before was perhaps made",
        keeping,
        "before = tenure.returned_in_time",
        "before = tenure.returned_in_time if tenure.returned_in_time is not None else tenure.is_given_up or None",
    ),
    Mistake(
        "a release that was refused is not sent again",
        keeping,
        "lambda _: None) if ours else",
        "lambda _: None) if loss else",
    ),
    Mistake(
        "those that are left are left",
        keeping,
        "lambda _: None) if ours else",
        "lambda _: None) if ours and not loss else",
    ),
    Mistake(
        "those that are gone are released again",
        keeping,
        "self._return(tenure, ours)",
        "self._return(tenure, tenure.claim.resources)",
    ),
)

MISTAKES = (*ACQUIRING, *KEEPING, *RETURNING)


def test_the_table_says_what_is_judged():
    """What each row is said to mean, and what is done, is what the table gives."""
    check(TABLE, answers)


@cache
def red(mistake: Mistake) -> frozenset[int]:
    """The lines that a mistake turns red."""
    judged = using(judging, mistake) if mistake.module is judging else judging
    parts = Parts(judged, using(attempting, mistake), using(keeping, mistake))
    return frozenset(each.row.line for each in mismatches(rows(TABLE), partial(answers, parts=parts)))


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: each.words.replace(" ", "_"))
def test_a_mistake_turns_the_table_red(mistake: Mistake):
    """Each mistake in the judgement, or in what is made of it, gives another answer somewhere."""
    assert red(mistake)


def test_each_row_is_turned_by_a_mistake():
    """There is no row that stays as it is whatever mistake is made."""
    reddened = frozenset[int]().union(*map(red, MISTAKES))
    assert [str(row) for row in rows(TABLE) if row.line not in reddened] == []
