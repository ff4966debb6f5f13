"""Locks as they stand when what became of a commit on them is judged: from words to documents, and back to words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import anyio
import msgspec

from tai_state.engines.api import ABSENT, At, Check, Committed, Delete, Document, Reading, Write, split
from tai_state.engines.matters import Commit, Done, Look
from tai_state.engines.memory import MemoryEngine
from tai_state.errors import CommitRefused, LockLost, StoreTimeout
from tai_state.locks import attempting, judging, keeping
from tai_state.locks.common import Common
from tai_state.locks.lease import Claim, Tenure
from tai_state.locks.records import BeatRecord, BreakRecord, LockRecord
from tai_state.streams.layout import Layout
from tai_state.streams.settings import Settings
from tai_state.testing import ManualClock

from .tables import Cells

TTL = 10.0
LAYOUT = Layout()
CLAIM = Claim(("a", "b"), "our nonce", "us", TTL)
FENCE = 7
NOW_US = 1_700_000_000_000_000


class Parts:
    """The library's parts that judge locks, or the same with a mistake in them."""

    def __init__(self, judged: Any = judging, attempted: Any = attempting, kept: Any = keeping) -> None:
        self.judging = judged
        self.attempting = attempted
        self.keeping = kept


class Scripted:
    """An engine whose first commit ends as it is told to, and on which nothing else happens.

    Attributes:
        commits: what was sent.
    """

    def __init__(
        self, documents: dict[str, Document], first: Exception | None = None, *, shared_clock: bool = True
    ) -> None:
        self.capabilities = replace(MemoryEngine(ManualClock()).capabilities, shared_clock=shared_clock)
        self.commits: list[Sequence[Write]] = []
        self._documents = documents
        self._first = first

    async def read(self, paths: Sequence[str]) -> Reading:
        """What stands."""
        return Reading(tuple(self._documents.get(path) for path in paths), NOW_US)

    async def commit(self, writes: Sequence[Write]) -> Committed:
        """The first one ends as was told, the others are acknowledged."""
        self.commits.append(writes)
        if len(self.commits) == 1 and self._first is not None:
            raise self._first
        return Committed(99, NOW_US)


class Seconds:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Nothing passes."""


class Case:
    """Two locks that are wanted, or were acquired, together; from the cells of a row."""

    def __init__(self, cells: Cells, parts: Parts) -> None:
        self.cells = cells
        self.parts = parts
        self.seconds = Seconds()
        self.documents = {each.path: each for name in CLAIM.resources for each in self._documents(name, cells[name])}
        is_lost = cells.get("answer") == "lost"
        self.engine = Scripted(
            self.documents,
            StoreTimeout("commit", "TEST", unknown=True) if is_lost else CommitRefused("a"),
            shared_clock=cells.get("by the engine") != "not known",
        )
        settings = Settings(clock=ManualClock(NOW_US), timeout_seconds=5.0, jitter=lambda: 0.0)
        core: Any = SimpleNamespace(engine=self.engine, layout=LAYOUT, settings=settings)
        self.common = Common(core, self.seconds, self.seconds.sleep)
        self.seen = self.common.sightings.seen(self._look())

    def answer(self, name: str) -> str:
        """One answer, in words."""
        answers = {
            "acquiring": self._acquiring,
            "a single try": lambda: self._tried(is_single=True),
            "tries": lambda: self._tried(is_single=False),
            "keeping": self._keeping,
            "a renewal": lambda: anyio.run(self._renewed),
            "a release": lambda: anyio.run(self._released),
        }
        return answers[name]()

    # What stands ---------------------------------------------------------------------------------------------------

    def _documents(self, name: str, words: str) -> Iterable[Document]:
        """The lock, and its renewals."""
        if words == "none":
            return
        whose, *rest = [each.strip() for each in words.split(",")]
        if whose == "broken" or "which broke ours" in rest:
            yield _document(LAYOUT.lockbreak(CLAIM.nonce), BreakRecord(name, TTL), FENCE + 1, NOW_US)
        if whose == "broken":
            return
        if whose == "damaged":
            yield Document(*split(LAYOUT.lock(name)), b"{}", FENCE if "unmoved" in rest else FENCE + 1, NOW_US)
            return
        nonce = CLAIM.nonce if whose in ("ours", "as acquired", "edited") else f"{whose} nonce"
        left = next((float(found[1]) for each in rest if (found := re.match(r"(\d+) s left", each))), 0.0)
        sign_us = NOW_US - round((TTL - left) * 1e6)
        beat = next((each for each in rest if "renewed" in each), "")
        made_us = sign_us - 5_000_000 if beat == "renewed" else sign_us
        record = LockRecord(whose.removesuffix("'s"), nonce, TTL, "")
        is_as_acquired = nonce == CLAIM.nonce and whose != "edited"
        yield _document(LAYOUT.lock(name), record, FENCE if is_as_acquired else FENCE + 1, made_us)
        if beat:
            is_own = beat in ("renewed", "renewed as sent")
            yield _document(LAYOUT.lockbeat(name), BeatRecord(nonce if is_own else "an older nonce", 1), 5, sign_us)

    def _look(self) -> Look:
        paths = self.common.sightings.paths(CLAIM.resources)
        documents = {path: self.documents.get(path) for path in paths}
        return Look(documents, time_us=NOW_US, asked=self.seconds.now, answered=self.seconds.now)

    # Acquiring -----------------------------------------------------------------------------------------------------

    def _acquiring(self) -> str:
        standings = self.common.sightings.standings(CLAIM.resources, self.seen)
        return self.parts.judging.judge_acquiring(standings, CLAIM.nonce).value

    def _tried(self, *, is_single: bool) -> str:
        attempt = self.parts.attempting.Attempt(self.common, CLAIM, None)
        seen = re.fullmatch(r"(\d+) s ago", self.cells["not ours"])
        assert seen is not None
        if self.cells["seen by"] != "the sending":
            self.seconds.now += 100.0
            there = {LAYOUT.lock("a"): _document(LAYOUT.lock("a"), LockRecord("ann", "n", TTL, ""), 3, NOW_US)}
            attempt.judge(Look(there, time_us=NOW_US, asked=self.seconds.now), is_single=True)
        if self.cells["seen by"] == "a later sending":
            self.seconds.now += 50.0
            attempt._commit()
        if "known as over" in self.cells["a"]:
            attempt._note_over(FENCE)
        self.seconds.now += float(seen[1])
        if self.cells["seen by"] == "a look, though sent later":
            attempt._is_open = True
            attempt._commit()
        verdict = attempt.judge(self._look(), is_single=is_single)
        if isinstance(verdict, Commit):
            return f"tries {'; '.join(map(_taken, verdict.writes))}"
        assert isinstance(verdict, Done)
        if verdict.result is None:
            return f"not acquired, to be had in {attempt.takeable_at - self.seconds.now:g} s"
        assert attempt.was_found
        return f"acquired, {verdict.result.remaining_seconds:g} s left, fence {verdict.result.fence}"

    # Keeping -------------------------------------------------------------------------------------------------------

    def _keeping(self) -> str:
        locks = {name: self.documents.get(LAYOUT.lock(name)) for name in CLAIM.resources}
        outcome, resource = self.parts.judging.judge_keeping(locks, FENCE)
        return outcome.value if resource is None else f"{outcome.value}: {resource}"

    def _tenure(self) -> Tenure:
        ago = 14_000_000 if self.cells.get("by the engine") == "over" else 4_000_000
        return Tenure(CLAIM, Committed(FENCE, NOW_US - ago), self.seconds.now - 4.0, self.seconds)

    async def _renewed(self) -> str:
        tenure = self._tenure()
        try:
            await self.parts.keeping.Keeper(self.common).renew(tenure)
        except LockLost as loss:
            return _lost(loss) if tenure.lost is loss else "lost, and not noted"
        assert tenure.remaining_seconds == TTL
        return "renewed" if len(self.engine.commits) == 1 else f"sent {len(self.engine.commits)} times, renewed"

    async def _released(self) -> str:
        tenure = self._tenure()
        was_over, before = self.cells["our time"] == "over", self.cells["before"]
        tenure.is_given_up = before != "nothing"
        if before == "unanswered":
            tenure.returned_in_time = not was_over
        if was_over or before == "unanswered":
            self.seconds.now += TTL
        try:
            await self.parts.keeping.Keeper(self.common).release(tenure)
        except LockLost as loss:
            if tenure.refusal is not loss or tenure.lost is not loss or not tenure.is_released:
                return "lost, and not noted"
            later = [write for commit in self.engine.commits[1:] for write in commit]
            rest = [name for name in CLAIM.resources if Delete(LAYOUT.lock(name), At(FENCE)) in later]
            return "; ".join([_lost(loss), *(f"releases {name}" for name in rest)])
        assert tenure.is_released
        return "released" if len(self.engine.commits) == 1 else f"sent {len(self.engine.commits)} times, released"


def _document(path: str, record: Any, revision: int, updated_us: int) -> Document:
    return Document(*split(path), msgspec.json.encode(record), revision, updated_us)


def _taken(write: Write) -> str:
    """A write of one that acquires."""
    name = write.path.rpartition("/")[2]
    if isinstance(write, Check):
        assert write.require is ABSENT
        return "not renewed since it was made"
    if isinstance(write, Delete):
        assert isinstance(write.require, At)
        return "not renewed since the last time"
    if write.require is ABSENT:
        return f"{name} where there is none"
    return f"{name} at revision {write.require.revision}" if isinstance(write.require, At) else f"{name}, unchecked"


def _holder(holder: str | None) -> str:
    return "held by nobody" if holder is None else f"held by {holder}"


def _lost(loss: LockLost) -> str:
    left = "" if loss.remaining is None else f" for {loss.remaining:g} s"
    return f"LockLost: {loss.resource}, {_holder(loss.holder)}{left}"


def answers(cells: Cells, names: Iterable[str], parts: Parts | None = None) -> Cells:
    """The answers of a row; what is raised is one, too: a mistake may raise anything."""
    try:
        return {name: Case(cells, parts or Parts()).answer(name) for name in names}
    except Exception as error:  # noqa: BLE001
        return dict.fromkeys(names, f"raises {error!r}".partition("\n")[0])
