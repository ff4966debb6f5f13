"""What the workload does in the proofs: where it starts, and its steps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mutants import OFTEN
from oracle import Ledger, check, ledger
from workload import Job, Step, Worker, steps, store_at

from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.streams.settings import SystemClock

_HISTORY = (
    "save:a", "update:a", "update:a", "update:a", "save:b", "update:a", "log:a", "update:a", "update:a", "update:b",
)  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """A start and the steps from there.

    Attributes:
        name: for reports.
        start: ``nothing``, ``tables`` (a file without a store in it), ``store``, or ``crashed`` (a store that was
            not closed).
        history: steps done before, of which nothing is traced.
        kinds: the steps, as words for :func:`workload.steps`.
        large: bytes of every third state.
        closes: as for a job.
        bare: as for a job.
        steady: every run makes the same calls.
        settings: mutants that are no mistakes.
    """

    name: str
    start: str
    history: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    large: int = 0
    closes: bool = True
    bare: bool = False
    steady: bool = True
    settings: tuple[str, ...] = ()

    @property
    def before(self) -> tuple[Step, ...]:
        """The steps done before."""
        return steps(*self.history)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the run."""
        return steps(*self.kinds, first=len(self.history) + 1, large=self.large)

    def job(self, path: Path, mutant: str = "", **options: Any) -> dict[str, Any]:
        """The run, as the workload process takes it."""
        mutants = (*self.settings, *filter(None, [mutant]))
        job = Job(str(path), self.steps, closes=self.closes, bare=self.bare, mutants=mutants, **options)
        return job.to_json()

    def ledger(self, lines: Sequence[str]) -> Ledger:
        """What was said in the run, the steps before it counted as acknowledged."""
        said = [line for step in self.before for line in (f"try {step.number} 1", f"ack {step.number} 1")]
        return ledger([*said, *lines], [*self.before, *self.steps])


CREATE = Scenario("create", "nothing", bare=True)
FOUND = Scenario("found", "tables", closes=False)
APPEND = Scenario("append", "store", _HISTORY, ("save:c", "update:c", "update:a", "log:a", "update:b"), closes=False)
SNAPSHOT = Scenario("snapshot", "store", _HISTORY, ("snapshot:a", "update:b", "update:b", "snapshot:b"), closes=False)
DELETE = Scenario("delete", "store", _HISTORY, ("delete:a", "save:a", "delete:b"), closes=False)
CLEANUP = Scenario("cleanup", "store", _HISTORY, ("update:a", "snapshot:a", "cleanup", "update:a"), closes=False)
SHORT = Scenario(
    "short",
    "store",
    _HISTORY,
    ("save:c", "update:a", "snapshot:a", "log:b", "delete:c", "cleanup", "update:a"),
    closes=False,
)
CLOSE = Scenario("close", "crashed", _HISTORY)
CHECKPOINT = Scenario(
    "checkpoint",
    "store",
    _HISTORY,
    tuple(f"update:{'ab'[n % 2]}" for n in range(12)),
    closes=False,
    settings=(OFTEN,),
)
BRIEF = Scenario("brief", "store", _HISTORY, ("save:c", "update:a"), closes=False)
TOGETHER = Scenario(
    "together",
    "store",
    _HISTORY,
    ("update:a+update:b+save:c+save:d", "update:a+log:b+delete:c+snapshot:d", "save:c+update:d+update:b"),
    closes=False,
    steady=False,
)
ALL = Scenario(
    "all",
    "nothing",
    (),
    (*_HISTORY, "save:c", "snapshot:b", "delete:c", "save:c", "cleanup", "update:a", "update:b"),
    settings=(OFTEN,),
)
_ROUND = ("update:a", "update:b", "log:a", "update:b", "snapshot:b", "save:c", "delete:c", "cleanup")
LONG = Scenario("long", "nothing", (), (*_HISTORY, *(_ROUND * 8)), large=60_000)
WORK = Scenario("work", "store", _HISTORY, _ROUND * 10, closes=False, settings=(OFTEN,))


def prepare(scenario: Scenario, folder: Path) -> Path:
    """Bring a folder to where a scenario starts; the path of the store's file in it."""
    path = folder / "proof.db"
    living = folder / "living"
    living.mkdir()

    async def bring() -> None:
        if scenario.start == "tables":
            async with SqliteEngine(str(path), SystemClock()):
                pass
        elif scenario.start == "store":
            async with store_at(str(path)) as store:
                await Worker(Job(str(path), scenario.before), store, _deny_failure).run()
        elif scenario.start == "crashed":
            async with store_at(str(living / path.name)) as store:
                await Worker(Job(str(path), scenario.before), store, _deny_failure).run()
                shutil.copytree(living, folder, dirs_exist_ok=True)

    anyio.run(bring)
    shutil.rmtree(living)
    return path


def copy(template: Path, folder: Path) -> Path:
    """A copy of a prepared folder's files in another folder; the path of the store's file there."""
    shutil.copytree(template.parent, folder, dirs_exist_ok=True)
    return folder / template.name


def judge(path: Path, book: Ledger) -> list[str]:
    """Everything that is wrong with a store after a run."""
    return anyio.run(check, path, book)


def finish(path: Path, scenario: Scenario, lines: Sequence[str]) -> list[str]:
    """Do what a run had left undone, the step under way with the id it had; what is wrong with the store then."""
    book = scenario.ledger(lines)
    open_steps = [step for step in scenario.steps if not _done(book, step)]
    more: list[str] = list(lines)

    async def go_on() -> None:
        async with store_at(str(path)) as store:
            await Worker(Job(str(path), tuple(open_steps)), store, more.append).run()

    try:
        anyio.run(go_on)
    except Exception as error:  # noqa: BLE001 - whatever comes out of it is a finding
        return [f"it could not go on: {type(error).__name__}: {error}"]
    book = scenario.ledger(more)
    problems = (
        []
        if book.acknowledged == len(scenario.before) + len(scenario.steps)
        else [f"running it again was answered by: {[line for line in more if not line.startswith(('try', 'ack'))]}"]
    )
    return problems + judge(path, book)


def _done(book: Ledger, step: Step) -> bool:
    return any(attempt.step == step and attempt.verdict == "stored" for attempt in book.attempts)


def _deny_failure(line: str) -> None:
    if not line.startswith(("try", "ack")):
        raise RuntimeError(f"the untraced start of a scenario failed: {line}")
