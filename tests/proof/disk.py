"""A disk that is full or failing, at every call that writes or syncs, once, for a while, and from then on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from crew import Crew, scratch, workloads
from kill import refer
from oracle import Ledger
from report import Section
from scenarios import Scenario, copy, judge, prepare
from tracing import Fault, arguments
from workload import IMPATIENCE_SECONDS

READING = ("pread64",)
ERRORS = {
    "pwrite64": ("ENOSPC", "EIO"),
    "fdatasync": ("EIO", "ENOSPC"),
    "fsync": ("EIO",),
    "ftruncate": ("EIO", "ENOSPC"),
    "openat": ("ENOSPC", "EMFILE"),
    "unlink": ("EIO",),
    **dict.fromkeys(READING, ("EIO",)),
}
"""What a disk answers to each call that SQLite makes of it."""

ATTEMPTS = 3
LENGTHS = {"once": "{}", "a while": "{}..{}", "on": "{}+"}
_WHILE = 3
_ERRORS = ("fail", "unknown", "unread", "unopened", "unclosed")
_TYPED = ("StoreUnavailable SQLITE_", "StoreTimeout SQLITE_", "CommitOutcomeUnknown ")


@dataclass(frozen=True)
class Trouble:
    """One planned disk fault.

    Attributes:
        scenario: what the workload does.
        template: the store it starts from.
        call: the system call that fails.
        error: how.
        file: the suffix of its file.
        first: from which call on, counted by thread.
        length: how long.
        mutant: the mistake made on purpose.
    """

    scenario: Scenario
    template: Path
    call: str
    error: str
    file: str
    first: int
    length: str
    mutant: str = ""

    @property
    def kind(self) -> str:
        """For counting."""
        return f"{self.call} {self.error} {self.file or 'main'} {self.length}"

    @property
    def fault(self) -> Fault:
        """As strace needs it."""
        when = LENGTHS[self.length].format(self.first, self.first + _WHILE - 1)
        return Fault(self.call, f"error={self.error}", when, (self.file,))


@dataclass(frozen=True)
class Endured:
    """What came of it."""

    plan: Trouble
    injected: int
    book: Ledger
    problems: tuple[str, ...]


def prove(
    crew: Crew,
    scenarios: Sequence[Scenario],
    *,
    lengths: tuple[str, ...] = tuple(LENGTHS),
    calls: tuple[str, ...] = tuple(ERRORS),
    minimum: int = 1,
    mutant: str = "",
    wanted: str = "",
) -> Section:
    """Let every call of these scenarios fail.

    Args:
        crew: does the runs.
        scenarios: what the workload does.
        lengths: how long the disk fails.
        calls: the system calls that fail.
        minimum: runs with a fault below which too little was done.
        mutant: the mistake made on purpose.
        wanted: what must then be among the failures.
    """
    some = "" if calls == tuple(ERRORS) else f" ({', '.join(calls)})"
    section = Section(f"disk{some}" + (f" [{mutant}]" if mutant else ""), minimum, wanted)
    started = time.monotonic()
    with scratch() as folder:
        for scenario in scenarios:
            (folder / scenario.name).mkdir()
            template = prepare(scenario, folder / scenario.name)
            [reference] = crew.map(partial(refer, template=template, also=READING, mutant=mutant), [scenario])
            section.runs += 1
            section.failures += reference.problems
            kinds = sorted({(each.name, each.file) for each in reference.calls if each.name in calls})
            plans = [
                Trouble(scenario, template, call, error, file, 1, length, mutant)
                for call, file in kinds
                for error in ERRORS[call]
                for length in lengths
                if file in ("", "-wal", "-shm", "-journal", "/")
            ]
            for results in crew.map(exhaust, plans):
                account(section, results)
    section.seconds = time.monotonic() - started
    return section


def exhaust(plan: Trouble) -> list[Endured]:
    """The fault at the first such call, the second, and so on, until a run no longer meets it."""
    results = [attempt(plan)]
    while results[-1].injected:
        results.append(attempt(_later(plan, len(results))))
    return results


def _later(plan: Trouble, by: int) -> Trouble:
    return Trouble(
        plan.scenario,
        plan.template,
        plan.call,
        plan.error,
        plan.file,
        plan.first + by,
        plan.length,
        plan.mutant,
    )


def attempt(plan: Trouble) -> Endured:
    """One fault, and a judgement of how it was borne."""
    with scratch() as folder:
        path = copy(plan.template, folder)
        job = plan.scenario.job(path, mutant=plan.mutant, attempts=ATTEMPTS, patience=IMPATIENCE_SECONDS, looks=True)
        run = workloads().run(job, arguments(path, plan.fault, (plan.call,)))
        book = plan.scenario.ledger(run.lines)
        injected = run.injected()
        problems = [*(["it hung"] if run.hung else []), *([book.broke] if book.broke else [])]
        problems += _manners(plan, book, run.lines, injected)
        problems += judge(path, book)
        return Endured(plan, injected, book, tuple(problems))


def _manners(plan: Trouble, book: Ledger, lines: tuple[str, ...], injected: int) -> list[str]:
    """Errors are typed and no more than the faults; and when the disk is well again, all goes on."""
    errors = [line for line in lines if line.split()[0] in _ERRORS]
    # A state that could not be created, as an earlier error said, is rightly not found later; one that could not be
    # deleted is rightly in the way.
    first = min((index for index, line in enumerate(errors) if not _follows(line)), default=len(errors))
    errors = [line for index, line in enumerate(errors) if index < first or not _follows(line)]
    problems = [f"an error of the wrong type: {line}" for line in errors if not any(kind in line for kind in _TYPED)]
    together = max(Counter(step.group for step in plan.scenario.steps).values(), default=1)
    if len(errors) > injected * together:
        problems.append(f"{len(errors)} errors from {injected} faults: {errors}")
    unopened = sum(line.startswith("unopened") for line in lines)
    wanted = len(plan.scenario.before) + len(plan.scenario.steps)
    if plan.length == "once" and unopened < ATTEMPTS and book.acknowledged < wanted:
        problems.append(f"after one fault only {book.acknowledged} of {wanted} steps were done: {errors}")
    if not book.ended and not book.broke:
        problems.append(f"it never ended: {lines[-1:]}")
    return problems


def _follows(line: str) -> bool:
    return "StateNotFound" in line or "VersionConflict" in line


def account(section: Section, results: list[Endured]) -> None:
    """Add the runs with one kind of fault to the section."""
    kind = results[0].plan.kind
    section.planned[kind] += len(results) - 1
    for result in results:
        section.runs += 1
        section.operations += len(result.book.attempts) - len(result.plan.scenario.before)
        section.acknowledged += result.book.acknowledged - len(result.plan.scenario.before)
        section.refused += result.book.refused
        section.unknown += result.book.unknown
        section.hit[kind] += bool(result.injected)
        section.failures += [
            f"{kind} {result.plan.first} of {result.plan.scenario.name}: {each}" for each in result.problems
        ]
