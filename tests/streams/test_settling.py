"""What a look at a change means: the table in ``settling.txt``, row by row, and mistakes that turn it red."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import pytest

from tai_state.engines import matters
from tai_state.streams import judging, repeating, unseen

from ..support.judged_changes import answers
from ..support.mistakes import Mistake, using
from ..support.tables import check, mismatches, rows

TABLE = Path(__file__).parent / "settling.txt"

READS = (
    Mistake("our place is not read", judging, "_place_before(each), *_places(each)]", "_place_before(each)]"),
    Mistake("the event before our place is not read", judging, "[_place_before(each), ", "["),
    Mistake(
        "the place that an expected version names is not read",
        judging,
        "paths.append(append.stream.event(append.expected + 1))",
        "pass",
    ),
    Mistake("markers are not read", judging, "paths += self._markers", "pass"),
    Mistake(
        "other documents that were written are not read", judging, "paths += [write.path for write in sent.others]", ""
    ),
)

OWN = (
    Mistake("our own commit is not looked for", judging, "self._own(look, before) or self", "self"),
    Mistake(
        "a marker comes before our own event",
        judging,
        "self._own(look, before) or self._earlier(look)",
        "self._earlier(look) or self._own(look, before)",
    ),
    Mistake(
        "any event at our place is ours", judging, ".decode(EVENT).digest == sent.events[0].digest", " is not None"
    ),
    Mistake("no event is ours", judging, ".decode(EVENT).digest == sent.events[0].digest", " is None"),
    Mistake("one of our events is enough to have all of them", judging, "if all(ours):", "if any(ours):"),
    Mistake("a part of our commit is taken for none", judging, "if not any(ours):", "if not all(ours):"),
    Mistake(
        "a part of our commit is looked for without end",
        judging,
        "return More() if look.looks < LOOKS_MAX else Failed(EventSourcingError(lacking, what))",
        "return More()",
    ),
    Mistake(
        "a part of our commit is damage at once",
        judging,
        "return More() if look.looks < LOOKS_MAX else Failed(EventSourcingError(lacking, what))",
        "return Failed(EventSourcingError(lacking, what))",
    ),
    Mistake(
        "what other documents were written is not looked for",
        judging,
        "return None if standing(sent.writes, look) is None else Done(nothing)",
        "return None",
    ),
    Mistake(
        "other documents count as written",
        judging,
        "return None if standing(sent.writes, look) is None else Done(nothing)",
        "return Done(nothing)",
    ),
    Mistake("a document that is there counts as removed", matters, "if document is not None:", "if False:"),
    Mistake(
        "a document that is there counts as written, whatever is in it",
        matters,
        "if document is None or document.fields() != _plain(write.fields):",
        "if document is None:",
    ),
)

STATES = (
    Mistake("whatever stands is as it was expected", judging, "if append.fits(known.head):", "if True:"),
    Mistake("nothing that stands is as it was expected", judging, "if append.fits(known.head):", "if False:"),
    Mistake("an event at our place that the state lacks is no matter", judging, "_is_taken(sent, look):", "False:"),
    Mistake(
        "an event that was cleaned up is no matter", judging, "return sent.before.version == 0 and", "return False and"
    ),
    Mistake("our place counts as taken", judging, "_is_taken(sent, look):", "True:"),
    Mistake(
        "an event at our place is damage though the state has moved",
        judging,
        "if sent is not None and known.head.revision == sent.before.revision and",
        "if sent is not None and",
    ),
    Mistake(
        "a state that is behind its events is damage at once",
        judging,
        """            if look.looks < LOOKS_MAX:
                return More()
            what = "its""",
        """            what = "its""",
    ),
    Mistake(
        "a state that is behind its events is looked at without end",
        judging,
        "            if look.looks < LOOKS_MAX:\n                return More()\n            what",
        "            return More()\n            what",
    ),
    Mistake(
        "a state without a document is at version 0",
        judging,
        "        if document is None:\n            return self._absent(append, look)\n",
        "",
    ),
    Mistake(
        "a deleted state is another version",
        judging,
        "if append.expected is EXISTS or matches(append.expected, head.version, deleted=head.deleted):",
        "if append.expected is EXISTS:",
    ),
    Mistake(
        "a deleted state exists at another version", judging, "if append.expected is EXISTS or matches(", "if matches("
    ),
    Mistake(
        "every other version is an absent state",
        judging,
        "if append.expected is EXISTS or matches(append.expected, head.version, deleted=head.deleted):",
        "if True:",
    ),
    Mistake(
        "events without a state are not looked for",
        judging,
        "        if found is None:\n            return More(scan=scan)\n        path",
        "        path",
    ),
    Mistake(
        "events without a state are no matter",
        judging,
        "        if not found:\n            return Failed(StateNotFound(path))",
        "        return Failed(StateNotFound(path))",
    ),
    Mistake(
        "a state that was never written is damage",
        judging,
        "        if not found:\n            return Failed(StateNotFound(path))\n",
        "",
    ),
    Mistake(
        "events without a state are damage at once",
        judging,
        """        if look.looks < LOOKS_MAX:
            return More()
        return Failed(""",
        """        return Failed(""",
    ),
    Mistake(
        "events without a state are looked at without end",
        judging,
        """        if look.looks < LOOKS_MAX:
            return More()
        return Failed(""",
        """        if True:
            return More()
        return Failed(""",
    ),
)

CONFLICTS = (
    Mistake(
        "who expects no version has seen one event",
        judging,
        "append.expected if isinstance(append.expected, int) else 0",
        "append.expected if isinstance(append.expected, int) else 1",
    ),
    Mistake("what was read already is read again", judging, "if head.version == after + 1 and", "if False and"),
    Mistake("one event is told of where there are several", judging, "if head.version == after + 1 and", "if True and"),
    Mistake(
        "the event before counts as read",
        judging,
        "around[1] is not None and (not after or around[0] is not None):",
        "around[1] is not None:",
    ),
    Mistake(
        "the first unseen event counts as read",
        judging,
        "if head.version == after + 1 and around[1] is not None and",
        "if head.version == after + 1 and",
    ),
    Mistake("the event before the unseen ones is not read", unseen, "max(after, 1)", "after + 1"),
    Mistake(
        "events are read past the version that stands",
        unseen,
        "stream.range(first, low - 1)",
        "stream.range(first, low)",
    ),
    Mistake(
        "one event too few is read", unseen, "UNSEEN_MAX - len(found), room) + 1", "UNSEEN_MAX - len(found), room)"
    ),
    Mistake("one event too many is carried", unseen, "found[-UNSEEN_MAX:]", "found[-UNSEEN_MAX - 1 :]"),
    Mistake("events are told of that were seen", unseen, "return Unseen(found, after)", "return Unseen(found, 0)"),
)

PLANS = (
    Mistake("guards are not looked at", judging, "if not guard.holds(document):", "if False:"),
    Mistake("guards that hold count as broken", judging, "if not guard.holds(document):", "if True:"),
    Mistake(
        "a guard that is broken hides that we were faster",
        judging,
        "        if found is not None:\n            return found\n        for guard",
        "        for guard",
    ),
    Mistake(
        "guards are not checked by the commit", judging, "others += [guard.check for guard in change.guards]", "pass"
    ),
    Mistake(
        "nothing is sent as a commit",
        judging,
        "return commit if commit.writes else Done",
        "return commit if True else Done",
    ),
    Mistake("what was sent counts as nothing", judging, "return commit if commit.writes else Done", "return Done"),
    Mistake(
        "a state on which nothing happens is not checked",
        judging,
        "            if composition is None:\n                others",
        "            if False:\n                others",
    ),
    Mistake(
        "nothing is checked where other documents alone are written",
        judging,
        "if not composed.writes and not any(compositions):",
        "if not any(compositions):",
    ),
    Mistake(
        "where nothing happens, it is checked that nothing does",
        judging,
        "if not composed.writes and not any(compositions):",
        "if False:",
    ),
    Mistake("other documents are not written", judging, "composed.writes if is_plain", "() if is_plain"),
    Mistake("other documents are not written beside others", judging, "others = list(composed.writes)", "others = []"),
    Mistake(
        "the governor is made again",
        judging,
        "if documents.get(path) is None and self._is_created",
        "if self._is_created",
    ),
    Mistake(
        "the governor is never made",
        judging,
        "if documents.get(path) is None and self._is_created",
        "if False and self._is_created",
    ),
    Mistake(
        "a later state makes the governor", judging, "and each.head.version == 0 and composition", "and composition"
    ),
    Mistake(
        "a state on which nothing happens makes the governor",
        judging,
        "and each.head.version == 0 and composition is not None",
        "and each.head.version == 0",
    ),
    Mistake(
        "a commit builds on nothing",
        judging,
        "plan(append.stream, known[index].head, composition",
        "plan(append.stream, EMPTY, composition",
    ),
    Mistake(
        "a snapshot that was too large is kept again",
        judging,
        "look.documents, before.author)",
        "look.documents)",
    ),
    Mistake("what was sent is composed anew", judging, "self._again(before, look) or ", ""),
    Mistake(
        "what was sent is sent again though it cannot be applied",
        judging,
        "return again if still_hold(again.writes, look) else None",
        "return again",
    ),
    Mistake("the governor is made again with what was sent", judging, "if write.path not in there", ""),
    Mistake(
        "a snapshot that was too large is kept again where the governor was made since",
        judging,
        "others, sent.author) if there",
        "others, self._author) if there",
    ),
    Mistake(
        "it is forgotten that a snapshot was too large",
        judging,
        "known, plans, others, author)",
        "known, plans, others, self._author)",
    ),
    Mistake(
        "a snapshot is left out whatever is too large",
        judging,
        "if not due or (isinstance(error, DocumentTooLarge) and error.path not in due):",
        "if not due:",
    ),
    Mistake("a snapshot is left out that is not due", judging, "if not due or (isinstance", "if (isinstance"),
    Mistake(
        "a snapshot that is too large is not left out",
        judging,
        "if not due or (isinstance(error, DocumentTooLarge) and error.path not in due):",
        "if True:",
    ),
    Mistake("what is sent instead has the snapshot, too", judging, "policy=Never())", "policy=sent.author.policy)"),
)

IDS = (
    Mistake("markers are not written", judging, "if self._markers:", "if False:"),
    Mistake(
        "a marker is put over another",
        judging,
        "draft.marker, others)\n                        yield Put(stream.marker(draft.event_id), record, ABSENT)",
        "draft.marker, others)\n                        yield Put(stream.marker(draft.event_id), record)",
    ),
    Mistake(
        "every marker of a batch names its first event",
        judging,
        "MarkerRecord(stream.state_id, event.version,",
        "MarkerRecord(stream.state_id, each.events[0].version,",
    ),
    Mistake("a marker does not tell of states without ids", judging, "draft.marker, others)", "draft.marker, {})"),
    Mistake(
        "a marker does not tell where nothing happened",
        judging,
        "if each is None or all(",
        "if each is not None and all(",
    ),
    Mistake(
        "a marker tells of the last event of another state",
        judging,
        "else each.events[0].version\n",
        "else each.events[-1].version\n",
    ),
    Mistake("markers are not asked", judging, "repeated(self._change, look) or ", ""),
    Mistake("an id without a marker is not looked for", judging, " or at_expected(self._change, look)", ""),
    Mistake("the content is not compared", repeating, "if marker.content != draft.marker or is_", "if is_"),
    Mistake(
        "ids are a batch wherever they stand",
        repeating,
        "any(places.setdefault(place, at) != at for place, at in said.items())\n",
        "bool(places.update(said))\n",
    ),
    Mistake(
        "an id stands where its batch begins",
        repeating,
        "start = marker.version - offset\n",
        "start = marker.version\n",
    ),
    Mistake(
        "a new id beside a known one is no matter",
        repeating,
        "if not is_known and places.get(append.stream.place) != NOTHING:",
        "if False:",
    ),
    Mistake(
        "an id must be known even where nothing happened",
        repeating,
        "if not is_known and places.get(append.stream.place) != NOTHING:",
        "if not is_known:",
    ),
    Mistake("what a marker tells of other states is not heard", repeating, ", **marker.others}", "}"),
    Mistake(
        "a state of which nothing is known counts as done",
        repeating,
        """get(append.stream.place)
        if start""",
        """get(append.stream.place, NOTHING)
        if start""",
    ),
    Mistake(
        "a part counts as the whole",
        repeating,
        "if start is None or len(places) > len(change.appends):",
        "if start is None:",
    ),
    Mistake("an event is looked for where nothing happened", repeating, "if start == NOTHING:", "if False:"),
    Mistake(
        "events are not read that decide",
        repeating,
        "if unread := [path for path in paths if path not in look.documents]:",
        "if unread := []:",
    ),
    Mistake("events are not compared", repeating, "if not _is_same(draft, events[-1]):", "if False:"),
    Mistake(
        "only ids are compared",
        repeating,
        "return is_id_same and said == stands and (draft.state is None or draft.state == event.to_state)",
        "return is_id_same",
    ),
    Mistake("ids are not compared", repeating, "return is_id_same and said", "return said"),
    Mistake("states are not compared", repeating, " and (draft.state is None or draft.state == event.to_state)", ""),
    Mistake("a first result counts as this call's own", repeating, ", is_repeated=True)", ")"),
    Mistake(
        "the expected version is where the event stands",
        repeating,
        "append.stream.event(append.expected + 1))",
        "append.stream.event(append.expected))",
    ),
    Mistake(
        "whatever follows the expected version is the event",
        repeating,
        "if document is not None and document.decode(EVENT).event_id == append.drafts[0].event_id:",
        "if document is not None:",
    ),
    Mistake("what is missing was cleaned up", repeating, "    if version < floor:\n", "    if True:\n"),
    Mistake(
        "what is seen without its events is looked at without end",
        repeating,
        "return More() if look.looks < LOOKS_MAX else Failed(EventSourcingError(path,",
        "return More() if True else Failed(EventSourcingError(path,",
    ),
    Mistake(
        "what is seen without its events is damage at once",
        repeating,
        "return More() if look.looks < LOOKS_MAX else Failed(EventSourcingError(path,",
        "return More() if False else Failed(EventSourcingError(path,",
    ),
    Mistake("an event that never was is missing", repeating, "    if first <= head < version:\n", "    if False:\n"),
    Mistake("an event that was cleaned up never was", repeating, "    if first <= head < version:\n", "    if True:\n"),
    Mistake("what was cleaned up is missing", repeating, "    if version < floor:\n", "    if False:\n"),
)

COPIES = (
    Mistake(
        "a copy may arrive though a state has moved",
        judging,
        "revisions != [known.head.revision for known in sent.known]\n            or any(not",
        "any(not",
    ),
    Mistake(
        "a copy may arrive though a guard is broken",
        judging,
        "or any(not guard.holds(look.documents[guard.path]) for guard in self._change.guards)",
        "",
    ),
    Mistake(
        "a copy may arrive though its id is taken",
        judging,
        "or any(look.documents.get(path) is not None for path in self._markers)",
        "",
    ),
    Mistake("a copy may arrive though another document has moved", judging, "or overtaken(sent.writes, look)", ""),
    Mistake(
        "every copy may arrive",
        judging,
        "if not isinstance(sent, Sent):\n            return False\n        states",
        "if True:\n            return False\n        states",
    ),
    Mistake(
        "no copy may arrive",
        judging,
        "if not isinstance(sent, Sent):\n            return False\n        states",
        "if True:\n            return True\n        states",
    ),
    Mistake(
        "a document at its revision has moved",
        matters,
        "if document is None or document.revision != write.require.revision:",
        "if True:",
    ),
)

MISTAKES = (*READS, *OWN, *STATES, *CONFLICTS, *PLANS, *IDS, *COPIES)


def test_the_table_says_what_is_judged():
    """The verdict on each row is the one that the table gives."""
    check(TABLE, answers)


@cache
def red(mistake: Mistake) -> frozenset[int]:
    """The lines that a mistake turns red."""
    judge_type = using(judging, mistake).Judge
    return frozenset(each.row.line for each in mismatches(rows(TABLE), partial(answers, judge_type=judge_type)))


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: each.words.replace(" ", "_"))
def test_a_mistake_turns_the_table_red(mistake: Mistake):
    """Each mistake in the judgement gives another verdict somewhere."""
    assert red(mistake)


def test_each_row_is_turned_by_a_mistake():
    """There is no row that stays as it is whatever mistake is made."""
    reddened = frozenset[int]().union(*map(red, MISTAKES))
    assert [str(row) for row in rows(TABLE) if row.line not in reddened] == []
