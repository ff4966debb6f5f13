"""One change over several states and other documents: all or nothing, composed jointly, and known again by its ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import anyio
import msgspec
import pytest

from tai_state import ANY, EXISTS, CommitOutcomeUnknown, Expected, StateStore, TaiStateError, VersionConflict
from tai_state.engines.api import ABSENT, At, Delete, Document, Put, Write
from tai_state.streams import judging
from tai_state.streams.changes import Append, Appended, Change, Composed, Known, append_of
from tai_state.streams.judging import Judge
from tai_state.streams.planning import Composition
from tai_state.streams.writing import Intent, draft
from tai_state.testing import AtCalls, Fault, FaultyEngine
from tai_state.values.json import encode

from ..support.mistakes import Mistake, mistaken
from ..support.overtaking import Overtaken
from ..support.stores import GOVERNOR, METADATA, CountingEngine, Place, Places, collected

pytestmark = pytest.mark.anyio

NOTE = "notes/n"

Data = dict[str, Any]
Compose = Callable[[list[Data | None], Data | None], tuple[list[Data | None], Data | None]]
"""From the data of each state and the note's to the new ones; None: nothing happens there."""


class Asked:
    """A change of alice and bob and perhaps of a note, as often as it is asked for.

    Args:
        compose: what is to happen.
        ids: the caller's, of each state's event.
        expected: of both states.
        note: whether it looks at the note.

    Attributes:
        seen: what compose was given, each time.
    """

    def __init__(
        self,
        compose: Compose,
        ids: Sequence[str | None] = (None, None),
        expected: Sequence[Expected] = (ANY, ANY),
        *,
        note: bool = False,
    ) -> None:
        self.seen: list[tuple[list[Data | None], Data | None]] = []
        self._compose = compose
        self._ids = ids
        self._expected = expected
        self._note = note

    async def of(self, store: StateStore) -> list[Appended | None]:
        """Make the change."""
        core = store.core
        appends: list[Append] = []
        for name, event_id, expected in zip(("alice", "bob"), self._ids, self._expected, strict=True):
            stream = core.layout.stream(GOVERNOR, name)
            made = draft(core, stream, Intent(METADATA, "change", event_id, payload={"of": name}))
            appends.append(append_of(stream, expected, (made,), needs_state=True))

        def compose(known: Sequence[Known], documents: Mapping[str, Document | None]) -> Composed:
            document = documents[NOTE] if self._note else None
            given = ([each.data for each in known], None if document is None else document.fields())
            self.seen.append(given)
            after, note = self._compose(*given)
            compositions = [
                None
                if data is None
                else Composition(
                    (msgspec.structs.replace(append.drafts[0], state=encode(data), carries_state=True),), data
                )
                for append, data in zip(appends, after, strict=True)
            ]
            writes: list[Write] = []
            if note is not None:
                require = ABSENT if document is None else At(document.revision)
                writes.append(Put(NOTE, note, require) if note else Delete(NOTE, require))
            return Composed(tuple(compositions), tuple(writes))

        return await core.appender.append(Change(tuple(appends), compose, documents=(NOTE,) if self._note else ()))


def sums(states: list[Data | None], note: Data | None) -> tuple[list[Data | None], Data | None]:
    """One more for each state, and their sum in the note."""
    after: list[Data | None] = [{"n": (each or {"n": 0})["n"] + 1} for each in states]
    return after, {"sum": sum(each["n"] for each in after if each), "times": (note or {"times": 0})["times"] + 1}


def moves(states: list[Data | None], _: Data | None) -> tuple[list[Data | None], Data | None]:
    """One more for each state."""
    return [{"n": (each or {"n": 0})["n"] + 1} for each in states], None


async def stands(store: StateStore) -> dict[str, Any]:
    """The data of both states and of the note, and the revisions at which they stand."""
    paths = [store.core.layout.stream(GOVERNOR, name).state for name in ("alice", "bob")]
    documents = (await store.core.engine.read([*paths, NOTE])).documents
    found = {name: each and each.fields() for name, each in zip(("alice", "bob", "note"), documents, strict=True)}
    return {
        "alice": found["alice"] and found["alice"]["data"],
        "bob": found["bob"] and found["bob"]["data"],
        "note": found["note"],
        "revisions": [each and each.revision for each in documents],
    }


async def begin(store: StateStore) -> None:
    """Alice and bob at version 1."""
    for name in ("alice", "bob"):
        await store.save_state(GOVERNOR, name, {"n": 0}, METADATA)


# All or nothing --------------------------------------------------------------------------------------------------


async def test_states_and_a_document_change_at_one_moment(store: StateStore):
    """A document is made, put at its revision and deleted in the commits that change two states."""
    for number, note in ((1, {"sum": 2, "times": 1}), (2, {"sum": 4, "times": 2})):
        done = await Asked(sums, note=True).of(store)
        assert [each and each.state.version for each in done] == [number, number]
        found = await stands(store)
        assert (found["alice"], found["bob"], found["note"]) == ({"n": number}, {"n": number}, note)
        assert len(set(found["revisions"])) == 1
    await Asked(lambda states, _: (moves(states, None)[0], {}), note=True).of(store)
    found = await stands(store)
    assert (found["alice"], found["bob"], found["note"]) == ({"n": 3}, {"n": 3}, None)
    assert found["revisions"][0] == found["revisions"][1]


@pytest.mark.parametrize(
    "expected", [(1, 7), (7, 1), (ANY, 7)], ids=["the_second", "the_first", "no_version_beside_one"]
)
async def test_one_state_that_is_not_as_expected_refuses_all(store: StateStore, expected: Sequence[Expected]):
    """Where one state is at another version, neither the other nor the document is written."""
    await begin(store)
    before = await stands(store)
    with pytest.raises(VersionConflict) as conflict:
        await Asked(sums, ("x", "y"), expected, note=True).of(store)
    assert (conflict.value.expected, conflict.value.actual) == (7, 1)
    assert await stands(store) == before
    assert await store.result_of(GOVERNOR, "alice", "x", "change", METADATA) is None


@pytest.mark.parametrize("rival", ["makes", "rewrites", "removes"])
async def test_a_document_that_others_wrote_is_looked_at_anew(place: Place, rival: str):
    """What is composed is composed again on what others have made of the document, and nothing of theirs is lost."""
    engine = Overtaken(place.engine())
    async with place.store(engine) as store, place.store() as other:
        await begin(store)
        if rival != "makes":
            await Asked(sums, note=True).of(store)
        asked = Asked(sums, note=True)
        write = Delete(NOTE) if rival == "removes" else Put(NOTE, {"sum": 0, "times": 40})
        engine.plan(2, lambda: other.core.engine.commit([write]))
        await asked.of(store)
        notes = [note and note["times"] for _, note in asked.seen]
        assert notes == {"makes": [None, 40], "rewrites": [1, 40], "removes": [1, None]}[rival]
        found = await stands(store)
        assert found["note"]["times"] == (1 if rival == "removes" else 41)
        assert found["alice"] == found["bob"] == {"n": 1 if rival == "makes" else 2}


# Nothing ---------------------------------------------------------------------------------------------------------


def leaves_if_another_stays(states: list[Data | None], _: Data | None) -> tuple[list[Data | None], Data | None]:
    """Alice goes off duty, if bob is on duty; nothing happens to bob."""
    alice, bob = states
    assert alice is not None
    return [{"duty": False} if bob and bob["duty"] and alice["duty"] else None, None], None


async def skewed(place: Place) -> tuple[list[bool], int]:
    """Alice goes off duty while bob does, by another store: who is on duty then, and how often it was composed."""
    engine = Overtaken(place.engine())
    async with place.store(engine) as store, place.store() as other:
        for name in ("alice", "bob"):
            await store.save_state(GOVERNOR, name, {"duty": True}, METADATA)
        asked = Asked(leaves_if_another_stays)
        engine.plan(2, lambda: other.update_state(GOVERNOR, "bob", {"duty": False}, METADATA, expected=EXISTS))
        await asked.of(store)
        states = await store.batch_get_states(GOVERNOR, ["alice", "bob"])
        return [state is not None and state.data["duty"] for state in states.values()], len(asked.seen)


async def test_a_state_on_which_nothing_happens_is_checked(place: Place):
    """What happens to one state rests on the other: where that has changed meanwhile, it is composed again."""
    assert await skewed(place) == ([True, False], 2)


async def test_without_the_check_there_is_write_skew(memory_places: Places, monkeypatch: pytest.MonkeyPatch):
    """Were that state not checked, both would go off duty, each because the other is on duty."""
    right = "            if composition is None:\n                others"
    mistake = Mistake("no check", judging, right, right.replace("composition is None", "False"))
    monkeypatch.setattr(Judge, "_others", mistaken(mistake).Judge._others)
    assert await skewed(memory_places.new()) == ([False, False], 1)


async def test_nothing_at_all_writes_nothing(place: Place):
    """Where nothing is to happen to any state or document, nothing is sent, not even the governor's document."""
    engine = CountingEngine(place.engine())
    async with place.store(engine) as store:
        engine.reset()
        asked = Asked(lambda *_: ([None, None], None), ("x", "y"), note=True)
        assert await asked.of(store) == [None, None]
        assert engine.counts.commits == []
        assert await collected(store.list_governors()) == []


async def test_a_governor_in_which_nothing_happened_is_made_with_its_first_state(place: Place):
    """A change that found nothing to do leaves no note that its governor is there: the first state brings it along."""
    async with place.store() as store:
        stream = store.core.layout.stream(GOVERNOR, "alice")
        nothing = Change((append_of(stream, ANY, ()),), lambda _known, _documents: Composed((None,)))
        assert await store.core.appender.append(nothing) == [None]
        await store.save_state(GOVERNOR, "alice", {"n": 1}, METADATA)
        assert await collected(store.list_governors()) == [GOVERNOR]


async def test_a_document_alone_changes_on_what_the_states_are(place: Place):
    """Where nothing happens to the states, they are checked by the commit that writes the document."""
    engine = Overtaken(place.engine())
    async with place.store(engine) as store, place.store() as other:
        await begin(store)

        def notes(states: list[Data | None], _: Data | None) -> tuple[list[Data | None], Data | None]:
            return [None, None], {"sum": sum(each["n"] for each in states if each)}

        asked = Asked(notes, note=True)
        engine.plan(2, lambda: other.update_state(GOVERNOR, "bob", {"n": 5}, METADATA, expected=1))
        assert await asked.of(store) == [None, None]
        assert (await stands(store))["note"] == {"sum": 5}
        assert len(asked.seen) == 2


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "not_read"])
async def test_a_document_alone_whose_answer_was_lost(place: Place, is_read: bool):  # noqa: FBT001
    """It is found where it stands as it was written, whether the change looks at it beforehand or not."""
    faulty = FaultyEngine(place.engine(), AtCalls({}))
    async with place.store(faulty) as store:
        await begin(store)
        commits = faulty.statistics().calls
        faulty.plan = AtCalls({("any", commits + 2): Fault.LOST_AFTER})
        stream = store.core.layout.stream(GOVERNOR, "alice")
        append = append_of(stream, EXISTS, ())
        composed = Composed((None,), (Put(NOTE, {"n": 1}, ABSENT),))
        change = Change((append,), lambda *_: composed, documents=(NOTE,) if is_read else ())
        assert await store.core.appender.append(change) == [None]
        assert (await stands(store))["note"] == {"n": 1}
        assert faulty.statistics().all_hit


# Ids -------------------------------------------------------------------------------------------------------------


def only_bob(states: list[Data | None], _: Data | None) -> tuple[list[Data | None], Data | None]:
    """Nothing happens to alice."""
    return [None, moves(states, None)[0][1]], None


IDENTIFIED = (
    (moves, ("x", None)),
    (moves, (None, "y")),
    (moves, ("x", "y")),
    (only_bob, (None, "y")),
    (only_bob, ("x", "y")),
)


def told(done: list[Appended | None]) -> list[list[tuple[int, str]] | None]:
    """What was recorded on each state: the versions and ids."""
    return [each and [(event.version, event.event_id) for event in each.events] for each in done]


async def recorded(store: StateStore) -> list[list[tuple[int, str]]]:
    """What the streams hold after their first event."""
    events = [await collected(store.get_events(GOVERNOR, name, after=1)) for name in ("alice", "bob")]
    return [[(event.version, event.event_id) for event in each] for each in events]


@pytest.mark.parametrize("fault", [each for each in Fault if not each.name.startswith("CANCELLED")], ids=str)
@pytest.mark.parametrize(("compose", "ids"), IDENTIFIED, ids=lambda each: getattr(each, "__name__", str(each)))
async def test_ids_answer_for_each_state(places: Places, compose: Compose, ids: Sequence[str | None], fault: Fault):
    """Whichever call goes wrong, the change happens once; asked for again, it has the first result for each state."""
    # An id on one state answers for the other, too, whether something happens there or not.
    unknown: set[tuple[str, ...]] = set()
    for number in count(1):
        place = places.new()
        async with place.store() as store:
            await begin(store)
        faulty = FaultyEngine(place.engine(), AtCalls({}))
        done: list[Appended | None] | None = None
        async with place.store(faulty) as store:
            before = faulty.statistics().calls
            faulty.plan = AtCalls({("any", before + number): fault})
            try:
                done = await Asked(compose, ids).of(store)
            except CommitOutcomeUnknown as error:
                unknown.add(error.event_ids)
            except TaiStateError:
                assert await recorded(store) == [[], []]
            calls = faulty.statistics().calls - before
            await faulty.settle()
        async with place.store() as store:
            again = await Asked(compose, ids).of(store)
            found = await recorded(store)
            assert [each or [] for each in told(again)] == found
            assert [len(each) for each in found] == [int(compose is moves), 1]
            assert done is None or told(done) == told(again)
            assert told(await Asked(compose, ids).of(store)) == told(again)
        if calls < number:
            break
    assert number > 2
    assert unknown <= {tuple(filter(None, ids))}


# Turns -----------------------------------------------------------------------------------------------------------


async def test_changes_without_a_version_take_turns(place: Place):
    """Tasks of one process that change the same two states at once send one commit each, and none is refused."""
    engine = CountingEngine(place.engine())
    pauses: list[int] = []

    def jitter() -> float:
        pauses.append(1)
        return 0.0

    async with place.store(engine, jitter=jitter) as store:
        await begin(store)
        engine.reset()
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                expected = ((ANY, EXISTS), (EXISTS, ANY))[number % 2]
                tasks.start_soon(Asked(moves, expected=expected).of, store)
        assert (len(engine.counts.commits), pauses) == (20, [])
        found = await stands(store)
        assert found["alice"] == found["bob"] == {"n": 20}


async def test_who_names_a_version_waits_for_nobody(store: StateStore):
    """A change that names the versions of both states asks for no turn, and goes ahead of who has them."""
    await begin(store)
    turns = store.core.turns
    waiting: list[int] = []

    def counting(states: list[Data | None], note: Data | None) -> tuple[list[Data | None], Data | None]:
        waiting.extend(len(line.waiting) if line else 0 for line in turns._turns.values())
        return moves(states, note)

    async with turns.of([store.core.layout.stream(GOVERNOR, name).state for name in ("alice", "bob")]):
        done = await Asked(counting, expected=(1, 1)).of(store)
    assert waiting == [0, 0]
    assert [each and each.state.version for each in done] == [2, 2]
