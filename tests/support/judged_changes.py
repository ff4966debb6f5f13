"""Changes, and what stands in the documents when they are judged: from words to the library's own records, and back.

All documents are made by commits as the library plans them, so that they are genuine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any

import msgspec

from tai_state.engines.api import ABSENT, At, Check, Delete, Document, Put, Scan, Write, holds, split
from tai_state.engines.matters import LOOKS_MAX, Commit, Done, Failed, Look, More
from tai_state.errors import (
    CommitTooLarge,
    DocumentTooLarge,
    EventSourcingError,
    IdempotencyConflict,
    LockLost,
    NotRetained,
    StateNotFound,
    TaiStateError,
    VersionConflict,
)
from tai_state.history.cleaned import put_note
from tai_state.streams.changes import Append, Change, Composed, Guard, Known
from tai_state.streams.judging import Judge
from tai_state.streams.layout import Layout, Stream
from tai_state.streams.planning import Author, Composition, Draft, plan, put_snapshot
from tai_state.streams.policies import EveryEvents, Never
from tai_state.streams.reader import StreamReader
from tai_state.streams.records import EMPTY, STATE, checked_state, head_of
from tai_state.streams.upcasting import Upcasting
from tai_state.values.digests import NO_STATE_TEXT, content_digest
from tai_state.values.expected import ANY, EXISTS, NO_STATE, Expectation
from tai_state.values.json import encode

from .tables import Cells

LAYOUT = Layout()
STREAMS = {name: LAYOUT.stream("bank", name) for name in ("alice", "bob")}
LOCK = LAYOUT.lock("r")
NOTE = "notes/n"
READER = StreamReader(None, Upcasting(1, {}))  # type: ignore[arg-type] - events are made of what was read already

OURS = Author("00000000000000aa", 1, Never())
THEIRS = Author("00000000000000bb", 1, Never())
EARLIER_US, NOW_US = 1_700_000_000_000_000, 1_700_000_100_000_000
TIMESTAMP = "2024-01-01T00:00:00.000000Z"

BASE = 2
"""Versions that a state has before anything of ours, where ids are in question."""

EXPECTATIONS = {"no state": NO_STATE, "an existing state": EXISTS, "any version": ANY}


class World:
    """Documents as an engine keeps them; each commit is checked against its requirements."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.revision = 0
        self._states: dict[tuple[str, int], Document] = {}
        self._numbers = count(1)

    def revision_of(self, path: str) -> int | None:
        """Where a document stands; None where there is none."""
        document = self.documents.get(path)
        return None if document is None else document.revision

    def commit(self, writes: Iterable[Write]) -> None:
        """Apply these writes, which must be possible."""
        writes = list(writes)
        assert all(holds(write.require, self.revision_of(write.path)) for write in writes), writes
        self.revision += 1
        for write in writes:
            if isinstance(write, Put):
                text = msgspec.json.encode(write.fields)
                self.documents[write.path] = Document(*split(write.path), text, self.revision, self.revision * 1_000)
            elif isinstance(write, Delete):
                self.documents.pop(write.path, None)
        for stream in STREAMS.values():
            if (state := self.documents.get(stream.state)) is not None:
                self._states[stream.state, state.decode(STATE).version] = state

    def scan(self, scan: Scan) -> list[Document]:
        """What a scan finds."""
        there = sorted((each for each in self.documents.values() if each.collection == scan.collection), key=_id)
        return [each for each in there if scan.start <= each.id < (scan.end or "\U0010ffff")][: scan.limit]

    def known(self, stream: Stream) -> Known:
        """A state as it stands."""
        document = self.documents.get(stream.state)
        if document is None:
            return Known(EMPTY)
        record = checked_state(document)
        return Known(head_of(record, document.revision), record.data)

    def version(self, stream: Stream) -> int:
        """Of a state."""
        return self.known(stream).head.version

    def grow(self, stream: Stream, version: int, *, deletes: bool = False) -> None:
        """Let others bring a state up to a version; with the last event, they may delete it."""
        while (now := self.version(stream)) < version:
            is_deleted = deletes and now + 1 == version
            data = None if is_deleted else {"n": now}
            text = NO_STATE_TEXT if data is None else encode(data)
            made = draft(stream, f"theirs-{next(self._numbers)}", "save", state=text)
            self.commit(plan(stream, self.known(stream).head, Composition((made,), data), THEIRS, EARLIER_US).writes)

    def rewrite(self, stream: Stream) -> None:
        """Let others keep a snapshot: the state's document moves, and its version does not."""
        known = self.known(stream)
        state = msgspec.structs.replace(checked_state(self.documents[stream.state]), kept=(known.head.version,))
        self.commit([Put(stream.state, state), put_snapshot(stream, state)])

    def clean(self, stream: Stream, until: int) -> None:
        """Remove an event as a cleanup does, which first says up to where it may."""
        state = checked_state(self.documents[stream.state])
        self.commit([Put(stream.state, msgspec.structs.replace(state, floor=until + 1)), put_note(stream)])
        self.commit([Delete(stream.event(until))])

    def set_back(self, stream: Stream, version: int) -> None:
        """Show a state as it was, beside events that are newer: a commit that is seen in part."""
        self.documents[stream.state] = self._states[stream.state, version]


def draft(stream: Stream, event_id: str, action: str, *, is_ours: bool = True, **parts: Any) -> Draft:
    """An event to be."""
    made = Draft(
        event_id=event_id,
        action=action,
        timestamp=TIMESTAMP,
        changed_by="tester",
        reason="a test",
        context="{}",
        **{"carries_state": "state" in parts, **parts},
    )
    if is_ours:
        return made
    content = content_digest(stream.state_id, action, made.payload, made.state, "tester", "a test", "{}", None)
    return msgspec.structs.replace(made, marker=content)


class Part:
    """What is asked for on one state, from words.

    Args:
        name: of the state.
        asked: ``saves``, ``counts``, ``deletes``, ``logs``, ``nothing``, or events one by one, perhaps ``none of``
            them. ``counts`` saves how often that was composed. ``x`` to ``z`` have that id of the caller's; ``note``
            and ``save`` have none, and the latter brings the state along. With a star they have another content.
        expected: what the caller believes of the state.
        call: tells the events of two calls apart that have no id of the caller's.
    """

    def __init__(self, name: str, asked: str, expected: str, call: str) -> None:
        self.stream = stream = STREAMS[name]
        self.asked, asked = asked, asked.removeprefix("none of ")
        self.composed = 0
        self.expected: int | Expectation = EXPECTATIONS.get(expected) or int(expected.removeprefix("version "))
        if asked in ("saves", "counts", "nothing", "deletes"):
            text = NO_STATE_TEXT if asked == "deletes" else encode({"n": 10})
            self.drafts: tuple[Draft, ...] = (draft(stream, f"{call}-{name}", asked, state=text),)
        elif asked == "logs":
            self.drafts = (draft(stream, f"{call}-{name}", "log"),)
        else:
            self.drafts = tuple(
                self._event(token.strip(), f"{call}-{name}-{index}") for index, token in enumerate(asked.split(","))
            )

    def append(self) -> Append:
        """As the library has it."""
        needs_state = self.asked == "logs" or self.drafts[0].payload is not None
        return Append(
            stream=self.stream,
            expected=self.expected,
            drafts=self.drafts,
            needs_state=needs_state,
            must_live=self.asked in ("deletes", "logs"),
        )

    def compose(self, known: Known) -> Composition | None:
        """What is to happen."""
        self.composed += 1
        if self.asked == "nothing" or self.asked.startswith("none of "):
            return None
        if self.asked == "deletes":
            return Composition(self.drafts, None)
        if self.asked == "logs":
            return Composition(self.drafts, known.data)
        if self.asked == "counts":
            counted, [made] = {"n": self.composed}, self.drafts
            return Composition((msgspec.structs.replace(made, state=encode(counted)),), counted)
        data, done = dict(known.data or {"n": 0}), []
        for each in self.drafts:
            data = {"n": data["n"] + int(each.payload or 0)} if each.state is None else msgspec.json.decode(each.state)
            done.append(msgspec.structs.replace(each, state=encode(data)))
        return Composition(tuple(done), data)

    def _event(self, token: str, own_id: str) -> Draft:
        name, number = token.removesuffix("*"), "2" if token.endswith("*") else "1"
        if name == "save":
            return draft(self.stream, own_id, "save", state=encode({"n": int(number)}))
        return draft(self.stream, own_id if name == "note" else name, "add", is_ours=name == "note", payload=number)


class Case:
    """A change and what stands, from the cells of a row; what is left out is as the table's first lines say."""

    def __init__(self, cells: Cells, judge_type: Any = Judge) -> None:
        self.cells = dict(cells)
        self.world = World()
        self._judge_type = judge_type
        expected = self._take("expected", "any version")
        self.parts = [Part("alice", self._take("alice is asked", "saves"), expected, "ours")]
        if "bob is asked" in cells:
            self.parts.append(Part("bob", self._take("bob is asked"), expected, "ours"))
        self._prepare()
        self.judge = self._judge(self.parts, NOW_US)
        self.sent: Any = None
        self._send(self._take("sent", "nothing"))
        self._record()
        if self.cells.get("note") == "as sent":
            self.world.commit(self.sent.writes)
        for part in self.parts:
            self._go_on(
                part, self._take(part.stream.state_id, ""), self._take(f"at {part.stream.state_id}'s place", "")
            )
        self._disturb()
        self._looks = {"first": 1, "last": LOOKS_MAX}[self._take("look", "first")]
        self._error = self._take("too large", "")
        assert not self.cells, f"columns that nobody reads: {self.cells}"

    # What stands ---------------------------------------------------------------------------------------------------

    def _take(self, column: str, default: str | None = None) -> str:
        return self.cells.pop(column) if default is None else self.cells.pop(column, default)

    def _prepare(self) -> None:
        """What stands before anything of ours."""
        world = self.world
        self._sent_on = {
            part.stream.state_id: int(found[1])
            for part in self.parts
            if (found := re.search(rf"(?:^|{part.stream.state_id} )on version (\d+)", self.cells.get("sent", "")))
        }
        places = [self.cells.get(f"at {part.stream.state_id}'s place", "ours") for part in self.parts]
        self._is_whole = set(places) == {"ours"}
        self._guards: tuple[Guard, ...] = ()
        if "lock" in self.cells:
            is_absent = self.cells["lock"] in ("none", "made since")
            if not is_absent:
                world.commit([Put(LOCK, {"holder": "ann"})])
            self._guards = (Guard(LOCK, ABSENT if is_absent else At(world.revision), lambda _: LockLost("r", "ben")),)
        self._note = self._take("the note is", "")
        if self._note != "made" and self.cells.get("note", "absent") != "absent":
            world.commit([Put(NOTE, {"n": 1})])
        self._governors = [self.parts[0].stream.governor] if "governor" in self.cells else []
        if self.cells.get("governor") == "there":
            world.commit([Put(governor, {}) for governor in self._governors])
        self._author = msgspec.structs.replace(
            OURS, policy={"due": EveryEvents(1), "": Never()}[self._take("snapshot", "")]
        )
        if "recorded" in self.cells:
            for part in self.parts:
                world.grow(part.stream, BASE)

    def _judge(self, parts: Sequence[Part], now_us: int) -> Any:
        composes = [part.compose for part in parts]

        def compose(known: Sequence[Known], documents: Mapping[str, Document | None]) -> Composed:
            compositions = [compose(each) for compose, each in zip(composes, known, strict=True)]
            return Composed(tuple(compositions), tuple(self._writes_of_note(documents)))

        documents = (NOTE,) if self._note not in ("", "made") else ()
        change = Change(tuple(part.append() for part in parts), compose, self._guards, documents)
        return self._judge_type(change, self._author, now_us, READER, self._governors, _recorded)

    def _writes_of_note(self, documents: Mapping[str, Document | None]) -> Iterable[Write]:
        if self._note == "made":
            yield Put(NOTE, {"n": 0}, ABSENT)
        elif self._note:
            document = documents[NOTE]
            require = ABSENT if document is None else At(document.revision)
            number = 0 if document is None else document.fields()["n"] + 1
            yield {
                "rewritten": Put(NOTE, {"n": number}, require),
                "removed": Delete(NOTE, require),
                "checked": Check(NOTE, require),
            }[self._note]

    def _send(self, sent: str) -> None:
        if sent == "nothing":
            return
        for part in self.parts:
            self.world.grow(part.stream, self._sent_on.get(part.stream.state_id, 0))
        self.sent = self._planned(self.judge, self.parts)
        if sent.endswith("without its snapshot"):
            self.sent = self.judge.smaller(self.sent, CommitTooLarge("bytes", 2, 1))

    def _planned(self, judge: Any, parts: Sequence[Part]) -> Any:
        return judge.planned([self.world.known(part.stream) for part in parts], self.world.documents)

    def _record(self) -> None:
        """What earlier calls recorded, each in a commit of its own."""
        calls = [self._take("recorded", "").split(";"), self._take("recorded of bob", "").split(";")]
        for number in range(max(map(len, calls))):
            asked = [each[number].strip() if number < len(each) else "" for each in calls]
            parts = [
                Part(name, words, "any version", f"earlier-{number}")
                for name, words in zip(STREAMS, asked, strict=True)
                if words
            ]
            if parts:
                self.world.commit(self._planned(self._judge(parts, EARLIER_US), parts).writes)

    def _go_on(self, part: Part, state: str, place: str) -> None:
        """What became of a state since."""
        world, stream = self.world, part.stream
        at = self._sent_on.get(stream.state_id, 0) + 1
        if place == "ours":
            self._apply(stream)
        elif place == "another's":
            world.grow(stream, at)
        found = re.fullmatch(r"(deleted at )?version (\d+)(, rewritten)?", state)
        if found:
            world.grow(stream, int(found[2]), deletes=bool(found[1]))
            if world.version(stream) > int(found[2]):
                world.set_back(stream, int(found[2]))
            if found[3]:
                world.rewrite(stream)
        elif state in ("missing", "missing, cleaned up"):
            world.grow(stream, max(BASE, at))
            if state == "missing, cleaned up":
                world.clean(stream, 1)
            del world.documents[stream.state]
        elif state == "never written":
            world.documents.pop(stream.state, None)
        else:
            assert not state, state
        if place == "nothing":
            world.documents.pop(stream.event(at), None)

    def _apply(self, stream: Stream) -> None:
        """Our commit: as a whole where all of it is there, else the part on one state."""
        if self._is_whole:
            if self.world.documents.get(self.sent.writes[0].path) is None:
                self.world.commit(self.sent.writes)
            return
        [planned] = [each for each in self.sent.planned() if each.stream == stream]
        self.world.commit(planned.writes)

    def _disturb(self) -> None:
        """What became of everything else."""
        world = self.world
        lock, note = self._take("lock", "as it was"), self._take("note", "absent")
        governor, since = self._take("governor", ""), self._take("since", "")
        if lock in ("another's", "made since"):
            world.commit([Put(LOCK, {"holder": "ben"})])
        elif lock == "gone":
            world.commit([Delete(LOCK)])
        else:
            assert lock in ("as it was", "none"), lock
        if note == "moved":
            world.commit([Put(NOTE, {"n": 7})])
        else:
            assert note in ("absent", "as read", "as sent"), note
        if governor == "made since":
            world.commit([Put(path, {}, ABSENT) for path in self._governors])
        else:
            assert governor in ("", "there", "absent"), governor
        self._since(since)

    def _since(self, since: str) -> None:
        world, stream = self.world, STREAMS["alice"]
        if since == "others wrote":
            world.grow(stream, world.version(stream) + 2)
        elif since == "the first event was cleaned up":
            world.grow(stream, world.version(stream) + 2)
            world.clean(stream, BASE + 1)
        elif since == "the first event was lost":
            world.grow(stream, world.version(stream) + 2)
            del world.documents[stream.event(BASE + 1)]
        elif since == "the markers were lost":
            for path in [path for path in world.documents if "/ids/" in path]:
                del world.documents[path]
        elif since == "seen without its events":
            version = world.version(stream)
            world.set_back(stream, BASE)
            for each in range(BASE + 1, version + 1):
                del world.documents[stream.event(each)]
        elif since == "the state is missing":
            del world.documents[stream.state]
        else:
            assert not since, since

    # What is answered ----------------------------------------------------------------------------------------------

    def answer(self, name: str) -> str:
        """One answer, in words."""
        answers: dict[str, Callable[[], str]] = {
            "verdict": self._verdict,
            "composed": self._composed,
            "a late copy": self._late_copy,
            "sent instead": self._instead,
        }
        return answers[name]()

    def _look(self) -> Look:
        paths = self.judge.reads(self.sent)
        return Look({path: self.world.documents.get(path) for path in paths}, looks=self._looks)

    def _verdict(self) -> str:
        look, said = self._look(), ""
        while True:
            verdict = self.judge.judge(look, self.sent)
            if not isinstance(verdict, More) or (not verdict.paths and verdict.scan is None):
                return said + self._words(verdict)
            documents = {**look.documents, **{path: self.world.documents.get(path) for path in verdict.paths}}
            scanned = dict(look.scanned)
            if verdict.scan is not None:
                scanned[verdict.scan] = self.world.scan(verdict.scan)
            further = msgspec.structs.replace(look, documents=documents, scanned=scanned)
            assert (further.documents.keys(), further.scanned.keys()) != (look.documents.keys(), look.scanned.keys())
            look = further
            said += f"reads {_wanted(verdict)}, then "

    def _composed(self) -> str:
        """How often, once there is a verdict."""
        self._verdict()
        return {1: "once", 2: "twice"}[self.parts[0].composed]

    def _late_copy(self) -> str:
        is_overtaken = self.judge.is_overtaken(self.sent, self._look())
        return "can be applied no more" if is_overtaken else "may still be applied"

    def _instead(self) -> str:
        stream = STREAMS["alice"]
        errors: dict[str, CommitTooLarge | DocumentTooLarge] = {
            "the commit": CommitTooLarge("bytes", 2, 1),
            "the snapshot": DocumentTooLarge(stream.snapshot(self._sent_on["alice"] + 1), 2, 1),
            "the state": DocumentTooLarge(stream.state, 2, 1),
        }
        smaller = self.judge.smaller(self.sent, errors[self._error])
        return "nothing" if smaller is None else self._words(smaller)

    def _words(self, verdict: Any) -> str:
        if isinstance(verdict, More):
            return "look again"
        if isinstance(verdict, Failed):
            return _error(verdict.error)
        if isinstance(verdict, Done):
            return self._done(verdict.result)
        assert isinstance(verdict, Commit)
        if self.sent is not None and list(verdict.writes) == list(self.sent.writes):
            return "send the same again"
        can_be = all(holds(write.require, self.world.revision_of(write.path)) for write in verdict.writes)
        return f"send {'' if can_be else 'in vain: '}{_joined(filter(None, map(self._write, verdict.writes)))}"

    def _write(self, write: Write) -> str:
        """What a write does, and how it is kept from harm; nothing for events at their places."""
        kind, _, name = write.path.removeprefix("governors/bank/").partition("/")
        name = name.partition("~")[0]
        require = write.require
        if kind == "events":
            return "" if require is ABSENT else f"an event of {name}, unchecked"
        if kind == "states":
            version = self.world.version(STREAMS[name])
            if require not in (ABSENT, At(self.world.revision_of(STREAMS[name].state) or 0)):
                return f"{name}, unchecked"
            if isinstance(write, Check):
                return f"{name} checked at version {version}"
            return f"{name} on version {version}"
        if kind == "cleaned":
            return "" if isinstance(write, Check) and require is ABSENT else f"the note of {name}, unchecked"
        if kind == "ids":
            return f"marker {name}" if require is ABSENT else f"marker {name}, unchecked"
        names = {LOCK: "the lock checked", NOTE: "the note", "governors/bank": "the governor"}
        if kind == "snapshots":
            return "a snapshot"
        verbs = {Put: "", Delete: " removed", Check: " checked"} if write.path == NOTE else {}
        return names[write.path] + verbs.get(type(write), "")

    def _done(self, results: Sequence[Any]) -> str:
        if all(each is None for each in results):
            return "done, with no event"
        said = [self._result(index, each) for index, each in enumerate(results)]
        if len(said) == 1:
            return said[0]
        return "; ".join(f"{part.stream.state_id}: {each}" for part, each in zip(self.parts, said, strict=True))

    def _result(self, index: int, appended: Any) -> str:
        if appended is None:
            return "nothing"
        first, last = appended.events[0].version, appended.events[-1].version
        stream = self.parts[index].stream
        assert appended.recorded_us == self.world.documents[stream.event(last)].updated_us
        if not appended.is_repeated:
            planned = self.sent.plans[index]
            assert (appended.events, appended.state) == (planned.events, planned.state)
            return "the result, as sent"
        assert appended.state.version == last
        return f"the first result, {_events(first, last)}"


def _recorded(*_: Any) -> Any:
    raise AssertionError("no engine answers here")


def _id(document: Document) -> str:
    return document.id


def _events(first: int, last: int) -> str:
    return f"event {first}" if first == last else f"events {first} to {last}"


def _joined(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _wanted(more: More) -> str:
    """What is read as well: events, by the names of their places."""
    paths = more.paths if more.scan is None else (more.scan.start, more.scan.end or "")
    state, _, _ = paths[0].rpartition("/")[2].partition("~")
    first, last = [int(path.partition("~")[2].rstrip("\x00")) for path in (paths[0], paths[-1])]
    if last > 10**6:
        return f"the first event of {state}"
    limit = last if more.scan is None or more.scan.limit is None else more.scan.limit
    return f"{'' if limit > last - first else f'{limit} of '}{_events(first, last)} of {state}"


def _error(error: Exception) -> str:
    """An error's name, and what of its fields tells one case from another."""
    name = type(error).__name__
    if isinstance(error, VersionConflict):
        versions = [event.version for event in error.events]
        seen = f"with {_events(versions[0], versions[-1])}" if versions else "with no events"
        assert versions == list(range(versions[0], versions[-1] + 1) if versions else [])
        return f"{name}: {_state(error.path)} is at version {error.actual}, {seen}"
    if isinstance(error, StateNotFound):
        return f"{name}: {_state(error.path)}"
    if isinstance(error, IdempotencyConflict):
        return f"{name}: {error.event_id}"
    if isinstance(error, EventSourcingError | NotRetained):
        return f"{name}: {error.what.partition(':')[0]}"
    assert isinstance(error, TaiStateError)
    return name


def _state(path: str) -> str:
    return path.rpartition("/")[2]


def answers(cells: Cells, names: Iterable[str], judge_type: Any = Judge) -> Cells:
    """The answers of a row; what is raised is one, too: a mistake may raise anything."""
    try:
        case = Case(cells, judge_type)
        return {name: case.answer(name) for name in names}
    except Exception as error:  # noqa: BLE001
        return dict.fromkeys(names, f"raises {error!r}".partition("\n")[0])
