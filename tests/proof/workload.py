"""The program under test: a store on an SQLite file, changed in a known order, every acknowledgement said at once.

:func:`serve` reads jobs, one JSON line each, and runs each in a child of its own. A child says on
its standard output, in one ``writev`` a line: ``try STEP ATTEMPT``, then ``ack STEP ATTEMPT`` once the library has
acknowledged the step, ``fail STEP ATTEMPT ERROR CODE`` where it said that nothing happened, ``unknown STEP
ATTEMPT ERROR CODE`` where it said that it does not know, and ``end`` when all is done.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import anyio
from mutants import MUTANTS

from tai_state import (
    NO_STATE,
    ChangeMetadata,
    CommitOutcomeUnknown,
    EveryEvents,
    GovernorNotFound,
    StateNotFound,
    StateStore,
    TaiStateError,
    open_store,
)
from tai_state.history.cleanup import Cleanup
from tai_state.history.replay import Replay

GOVERNOR = "proof"
_IDS = uuid.UUID("5f0a3f0c-6f0f-4d35-9c37-2d1d0c1f6a7e")
_START = datetime(2026, 1, 1, tzinfo=UTC)
_SAME_ID_TRIES = 2
"""How often a step of unknown outcome is asked for again with the same event id."""
PATIENCE_SECONDS = 10.0
IMPATIENCE_SECONDS = 0.02
"""For runs on a disk that stays broken: there is nothing to wait for."""
"""How long the library goes on by itself when answers are lost."""


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        number: its place in the order, from 1.
        kind: save, update, log, delete, snapshot or cleanup.
        state: the state concerned.
        bytes: how much text the state holds after it.
        group: steps with the same number run side by side.
    """

    number: int
    kind: str
    state: str
    bytes: int
    group: int

    def event_id(self, attempt: int) -> str:
        """The id that the event of this attempt carries."""
        return str(uuid.uuid5(_IDS, f"{self.number}/{attempt}"))

    def data(self, attempt: int) -> dict[str, Any]:
        """The state after this attempt."""
        return {"step": self.number, "attempt": attempt, "text": "x" * self.bytes}


@dataclass(frozen=True)
class Job:
    """What one child does.

    Attributes:
        path: the store's file.
        steps: in order.
        attempts: how often a step that certainly failed is tried, each time with a new event id; and how often
            the store is opened, should that fail.
        looks: after an error read everything, and say whether that went well.
        closes: close the store at the end; else leave as a crash would.
        bare: only open and close the engine.
        patience: seconds that the store looks after one change.
        mutants: the mistakes to make on purpose.
    """

    path: str
    steps: tuple[Step, ...]
    attempts: int = 1
    looks: bool = False
    closes: bool = True
    bare: bool = False
    patience: float = PATIENCE_SECONDS
    mutants: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As sent to the process that serves."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Job:
        """As read there."""
        return cls(**{**found, "steps": tuple(Step(**step) for step in found["steps"])})


def steps(*words: str, first: int = 1, large: int = 0) -> tuple[Step, ...]:
    """Steps from words like ``save:a`` or, side by side, ``save:a+save:b``; every third one is as large as given."""
    made: list[Step] = []
    for group, word in enumerate(words):
        for each in word.split("+"):
            kind, _, state = each.partition(":")
            number = first + len(made)
            size = large if large and number % 3 == 0 else 40 + number
            made.append(Step(number, kind, state, size, group))
    return tuple(made)


def store_at(path: str, patience: float = PATIENCE_SECONDS) -> StateStore:
    """The store as every run and every check opens it: few events to a snapshot."""
    return open_store(f"sqlite:///{path}", snapshots=EveryEvents(4, keep=3), timeout_seconds=patience)


async def perform(store: StateStore, step: Step, attempt: int, expected: Any) -> None:
    """Do one step."""
    metadata = ChangeMetadata(changed_by="proof", reason=step.kind)
    moment = _START + timedelta(seconds=step.number)
    common: dict[str, Any] = {"event_id": step.event_id(attempt), "timestamp": moment}
    if step.kind == "save":
        await store.save_state(GOVERNOR, step.state, step.data(attempt), metadata, expected=expected, **common)
    elif step.kind == "update":
        await store.update_state(GOVERNOR, step.state, step.data(attempt), metadata, expected=expected, **common)
    elif step.kind == "log":
        await store.log_event(GOVERNOR, step.state, "log", metadata, expected=expected, **common)
    elif step.kind == "delete":
        await store.delete_state(GOVERNOR, step.state, metadata, expected=expected, **common)
    elif step.kind == "snapshot":
        await store.create_snapshot(GOVERNOR, step.state)
    elif step.kind == "cleanup":
        nothing = timedelta(0)  # the public call spares the last hour, which is all there is here
        await Cleanup(store.core, Replay(store.core, {}), nothing, age_min=nothing).run(GOVERNOR)
    else:
        raise ValueError(step.kind)


async def expected_now(store: StateStore, step: Step) -> Any:
    """What a step builds on: the state's version as it stands."""
    if step.kind in ("save", "snapshot", "cleanup"):
        return NO_STATE
    try:
        return (await store.get_state(GOVERNOR, step.state)).version
    except StateNotFound:
        return NO_STATE


class Worker:
    """Does a job's steps on an open store."""

    def __init__(self, job: Job, store: StateStore, say: Callable[[str], None]) -> None:
        self._job = job
        self._store = store
        self._say = say

    async def run(self) -> None:
        """All steps in order; what fails for certain is tried again as a new change, then left."""
        for _, group in groupby(self._job.steps, lambda step: step.group):
            async with anyio.create_task_group() as tasks:
                for step in group:
                    tasks.start_soon(self._do, step)

    async def _do(self, step: Step) -> None:
        for attempt in range(1, self._job.attempts + 1):
            if await self._settled(step, attempt):
                break

    async def _settled(self, step: Step, attempt: int) -> bool:
        """One attempt; asked for again with the same id while its outcome is unknown. False: it failed."""
        expected: Any = None
        for _ in range(_SAME_ID_TRIES):
            self._say(f"try {step.number} {attempt}")
            try:
                if expected is None:
                    expected = await expected_now(self._store, step)
                await perform(self._store, step, attempt, expected)
            except TaiStateError as error:
                unknown = isinstance(error, CommitOutcomeUnknown) or getattr(error, "unknown", False)
                self._say(f"{'unknown' if unknown else 'fail'} {step.number} {attempt} {describe(error)}")
                if self._job.looks:
                    await self._look()
                if not unknown:
                    return False
            else:
                self._say(f"ack {step.number} {attempt}")
                return True
        return True

    async def _look(self) -> None:
        """Whether the store can still be read in this process."""
        try:
            async for _ in self._store.get_all_events(GOVERNOR):
                pass
        except GovernorNotFound:
            self._say("read")
        except TaiStateError as error:
            self._say(f"unread {describe(error)}")
        else:
            self._say("read")


def describe(error: TaiStateError) -> str:
    """An error as one line of words."""
    return f"{type(error).__name__} {getattr(error, 'code', '-')}"


def say(line: str) -> None:
    """One line, at once, by a system call that nothing else here makes: so a kill can be planned at each of them."""
    os.writev(1, [line.encode() + b"\n"])


async def work(job: Job) -> None:
    """A job from opening the store to closing it."""
    for _ in range(job.attempts):
        opened = False
        store = store_at(job.path, job.patience)
        try:
            async with store._engine if job.bare else store:
                opened = True
                await Worker(job, store, say).run()
                if not job.closes:
                    say("end")
                    os._exit(0)
        except TaiStateError as error:
            say(f"{'unclosed' if opened else 'unopened'} {describe(error)}")
        if opened:
            break


def child(job: Job) -> None:
    """The body of one child; it never returns into the process that serves."""
    for mutant in job.mutants:
        MUTANTS[mutant]()
    allow_tracing()
    sys.stdin.buffer.raw.read(len(b'"go"\n'))
    try:
        anyio.run(work, job)
    except BaseException as error:  # noqa: BLE001 - the parent has to hear of everything
        say(f"broke {type(error).__name__} {' '.join(str(error).split())[:300]}")
        os._exit(1)
    say("end")
    os._exit(0)


def allow_tracing() -> None:
    """Let any process of this user trace this one, where the kernel would allow ancestors only."""
    set_ptracer, anyone = 0x59616D61, ctypes.c_ulong(-1)
    ctypes.CDLL(None).prctl(set_ptracer, anyone, 0, 0, 0)


def serve() -> None:
    """Run a job for each line on standard input."""
    for line in iter(sys.stdin.buffer.raw.readline, b""):
        job = Job.from_json(json.loads(line))
        pid = os.fork()
        if pid == 0:
            child(job)
        say(f"pid {pid}")
        _, status = os.waitpid(pid, 0)
        say(f"exit {status}")
