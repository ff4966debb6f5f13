"""What a store must hold, judged from what the workload said; and a look at what it holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec
from workload import GOVERNOR, Step, store_at

from tai_state import GovernorNotFound, StateMachinePersister, StateNotFound, StateStore

Verdict = Literal["stored", "absent", "either"]


@dataclass(frozen=True)
class Attempt:
    """One attempt at one step, and what must have become of it."""

    step: Step
    number: int
    verdict: Verdict


@dataclass(frozen=True)
class Ledger:
    """What the workload said, step by step.

    Attributes:
        attempts: in order.
        acknowledged: steps that were.
        refused: attempts reported as certainly failed.
        unknown: attempts whose outcome the library left open.
        unread: times the store could not be read in the process itself.
        broke: what ended the workload in a way it must not end; empty otherwise.
        ended: it got to its end.
    """

    attempts: tuple[Attempt, ...]
    acknowledged: int
    refused: int
    unknown: int
    unread: int
    broke: str
    ended: bool


def ledger(lines: Iterable[str], steps: Sequence[Step]) -> Ledger:
    """Read what the workload said."""
    by_number = {step.number: step for step in steps}
    said: dict[tuple[int, int], list[str]] = {}
    unread, broke, ended = 0, "", False
    for line in lines:
        word, *rest = line.split()
        if word in ("try", "ack", "fail", "unknown"):
            said.setdefault((int(rest[0]), int(rest[1])), []).append(word)
        unread += word == "unread"
        ended |= word == "end"
        broke = line if word == "broke" else broke
    return Ledger(
        attempts=tuple(Attempt(by_number[n], attempt, _verdict(words)) for (n, attempt), words in said.items()),
        acknowledged=sum("ack" in words for words in said.values()),
        refused=sum("fail" in words for words in said.values()),
        unknown=sum("unknown" in words for words in said.values()),
        unread=unread,
        broke=broke,
        ended=ended,
    )


def _verdict(words: Sequence[str]) -> Verdict:
    """An answer stands; without one (killed, unknown) both are right."""
    if "ack" in words:
        return "stored"
    if words.count("fail") == words.count("try"):
        return "absent"
    return "either"


async def check(path: Path, book: Ledger) -> list[str]:
    """Everything that is wrong with a store after such a run; the library is the first to open it."""
    try:
        async with store_at(str(path)) as store:
            problems = await _compare(store, book)
            problems += await _verify(store)
    except Exception as error:  # noqa: BLE001 - whatever comes out of it is a finding
        return [f"the store cannot be read: {type(error).__name__}: {error}"]
    return problems + _raw(path)


async def _compare(store: StateStore, book: Ledger) -> list[str]:
    problems: list[str] = []
    cleaned = {attempt.verdict for attempt in book.attempts if attempt.step.kind == "cleanup"}
    floors: list[int] = []
    for state in sorted({attempt.step.state for attempt in book.attempts if attempt.step.state}):
        attempts = [attempt for attempt in book.attempts if attempt.step.state == state]
        events = await _stream(store, state)
        floors.append(events[0].version if events else 1)
        problems += _events(state, attempts, events, gone=floors[-1] - 1 if cleaned else 0)
        problems += await _state(store, state, attempts, events)
    smooth = all(attempt.verdict == "stored" for attempt in book.attempts[:-1])
    if smooth and "stored" in cleaned and max(floors, default=1) == 1:
        problems.append("an acknowledged cleanup has removed nothing")
    return problems


async def _stream(store: StateStore, state: str) -> list[Any]:
    try:
        return [event async for event in store.get_events(GOVERNOR, state)]
    except (GovernorNotFound, StateNotFound):
        return []


def _events(state: str, attempts: Sequence[Attempt], events: Sequence[Any], gone: int) -> list[str]:
    """Compare a stream with the attempts: in order, nothing missing, nothing doubled, nothing that failed."""
    problems = []
    due = [attempt for attempt in attempts if attempt.step.kind not in ("snapshot", "cleanup")]
    wanted = {attempt.step.event_id(attempt.number): attempt for attempt in due}
    order = list(wanted)
    found = [event.event_id for event in events]
    versions = [event.version for event in events]
    if versions != list(range(gone + 1, gone + 1 + len(versions))):
        problems.append(f"{state}: the stream has versions {versions}")
    if unexpected := [each for each in found if each not in wanted]:
        problems.append(f"{state}: events nobody tried to write: {unexpected}")
    places = [order.index(each) for each in found if each in wanted]
    if places != sorted(set(places)):
        problems.append(f"{state}: events out of order or doubled: {places}")
    required = [event_id for event_id, attempt in wanted.items() if attempt.verdict == "stored"]
    if gone and found and found[0] in wanted:
        required = [each for each in required if order.index(each) >= order.index(found[0])]
    problems += [
        f"{state}: LOST acknowledged step {wanted[each].step.number}" for each in required if each not in found
    ]
    problems += [
        f"{state}: step {wanted[each].step.number} was reported as failed, and is stored"
        for each in found
        if each in wanted and wanted[each].verdict == "absent"
    ]
    return problems + _contents(state, wanted, events)


def _contents(state: str, wanted: dict[str, Attempt], events: Sequence[Any]) -> list[str]:
    problems = []
    before: Any = None
    for place, event in enumerate(events):
        attempt = wanted.get(event.event_id)
        if attempt is None:
            continue
        kind = attempt.step.kind
        expected = {"delete": None, "log": before}.get(kind, attempt.step.data(attempt.number))
        if event.to_state != expected and not (kind == "log" and place == 0):
            problems.append(f"{state}: the event of step {attempt.step.number} holds another state")
        before = event.to_state
    return problems


async def _state(store: StateStore, state: str, attempts: Sequence[Attempt], events: Sequence[Any]) -> list[str]:
    """The state is its last event; every kept snapshot is the state of its version."""
    try:
        now = await store.get_state(GOVERNOR, state)
        data, version = now.data, now.version
    except StateNotFound:
        data, version = None, events[-1].version if events else 0
    if not events:
        return [f"{state}: a state at version {version} without events"] if version else []
    problems = []
    if version != events[-1].version:
        problems.append(f"{state}: the state is at version {version}, its last event at {events[-1].version}")
    if not _fits(events[-1], data):
        problems.append(f"{state}: the state is not what its last event says")
    kept = await store.list_snapshots(GOVERNOR, state)
    by_version = {event.version: event for event in events}
    for each in kept:
        snapshot = await store.load_snapshot(GOVERNOR, state, each)
        if snapshot is None or snapshot.version != each or not _fits(by_version.get(each), snapshot.data):
            problems.append(f"{state}: the snapshot kept at version {each} is not the state of that version")
    asked = [attempt for attempt in attempts if attempt.step.kind == "snapshot" and attempt.verdict == "stored"]
    if asked and not kept:
        problems.append(f"{state}: LOST the acknowledged snapshot of step {asked[-1].step.number}")
    if events[0].version > 1 and (not kept or kept[0] < events[0].version):
        problems.append(f"{state}: events before {events[0].version} are gone, with snapshots at {kept}")
    return problems


def _fits(event: Any, data: Any) -> bool:
    """Whether this is the state after the event. One that left it as it was does not tell, where it is the first."""
    return event is not None and (event.to_state == data or (event.action == "log" and event.to_state is None))


async def _verify(store: StateStore) -> list[str]:
    """The library's own verification finds nothing."""
    report = await StateMachinePersister(store).validate_consistency()
    return [f"verification: {finding}" for finding in report.findings]


def _raw(path: Path) -> list[str]:
    """The file by itself: sound for SQLite, and every state with all events up to its version."""
    try:
        return _tables(apsw.Connection(str(path)))
    except apsw.Error as error:
        return [f"CORRUPT: {type(error).__name__}: {error}"]


def _tables(connection: apsw.Connection) -> list[str]:
    try:
        if (answer := connection.execute("PRAGMA integrity_check").get) != "ok":
            return [f"integrity_check: {answer}"]
        rows = list(connection.execute("SELECT collection, id, fields FROM documents"))
    finally:
        connection.close()
    versions: dict[str, list[int]] = {}
    states: dict[str, int] = {}
    for collection, _, fields in rows:
        record = msgspec.json.decode(fields)
        if collection.endswith("/events"):
            versions.setdefault(record["state_id"], []).append(record["version"])
    for collection, document_id, fields in rows:
        if collection.endswith("/states"):
            states[document_id] = msgspec.json.decode(fields)["version"]
    problems = [f"{state}: events without a state" for state in versions if state not in states]
    for state, version in states.items():
        found = sorted(versions.get(state, []))
        if not found or found != list(range(found[0], version + 1)):
            problems.append(f"{state}: TORN: version {version} with events {found}")
    return problems
