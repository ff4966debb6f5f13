"""Ending the process at every system call that changes a file."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from crew import Crew, scratch, workloads
from oracle import Ledger
from report import Section
from scenarios import Scenario, copy, finish, judge, prepare
from tracing import WRITING, Call, Fault, Run, arguments

_SAYING = "saying"
"""Stands for the calls by which the workload speaks: killed there, it has done what it cannot say."""


@dataclass(frozen=True)
class Kill:
    """One planned kill.

    Attributes:
        scenario: what the workload does.
        template: the store it starts from.
        call: the system call.
        file: the suffix of its file.
        when: at which call of its kind by one thread.
        beyond: no thread makes so many such calls, so that it must miss.
        mutant: the mistake made on purpose.
    """

    scenario: Scenario
    template: Path
    call: str
    file: str
    when: int
    beyond: bool
    mutant: str = ""

    @property
    def kind(self) -> str:
        """For counting."""
        return f"{self.scenario.name}: {self.call} {self.file or 'main'}"

    @property
    def fault(self) -> Fault:
        """As strace needs it."""
        files = None if self.file == _SAYING else (self.file,)
        return Fault(self.call, "signal=KILL", str(self.when), files)


@dataclass(frozen=True)
class Killed:
    """What came of it.

    Attributes:
        plan: what was planned.
        place: which call of its kind in the whole process was the last, from 1.
        hit: the process died of it.
        book: what the workload had said.
        problems: what was wrong with the store then, or after running it again to the end.
    """

    plan: Kill
    place: int
    hit: bool
    book: Ledger
    problems: tuple[str, ...]


def prove(
    crew: Crew,
    scenarios: Sequence[Scenario],
    *,
    locks: bool = False,
    minimum: int = 1,
    mutant: str = "",
    wanted: str = "",
) -> Section:
    """Kill at every point of these scenarios.

    Args:
        crew: does the runs.
        scenarios: what the workload does.
        locks: kill at every lock call, too: other moments for the memory that processes share.
        minimum: kills below which too little was done.
        mutant: the mistake made on purpose.
        wanted: what must then be among the failures.
    """
    section = Section("kill" + (f" [{mutant}]" if mutant else ""), minimum, wanted)
    started = time.monotonic()
    also = ("fcntl",) if locks else ()
    with scratch() as folder:
        for scenario in scenarios:
            (folder / scenario.name).mkdir()
            template = prepare(scenario, folder / scenario.name)
            [reference] = crew.map(partial(refer, template=template, also=also, mutant=mutant), [scenario])
            section.runs += 1
            section.failures += reference.problems
            plans = plan(scenario, template, reference, mutant)
            results = list(crew.map(attempt, plans))
            kinds = missed(results, reference)
            if kinds:  # now and then strace lets a planned kill pass; the account says how often
                again = [each for each in plans if (each.call, each.file) in kinds]
                section.again += len(again)
                results += crew.map(attempt, again)
            account(section, results, reference)
    section.seconds = time.monotonic() - started
    return section


@dataclass(frozen=True)
class Reference:
    """A run without a fault: the calls that there are to kill at."""

    calls: tuple[Call, ...]
    problems: tuple[str, ...]


def refer(scenario: Scenario, template: Path, *, also: tuple[str, ...] = (), mutant: str = "") -> Reference:
    """See which calls a scenario makes that write, or are named, and that it ends well."""
    with scratch() as folder:
        path = copy(template, folder)
        run = workloads().run(scenario.job(path, mutant=mutant), arguments(path, None, (*WRITING, *also)))
        book = scenario.ledger(run.lines)
        said = [Call(0, "writev", _SAYING) for _ in run.lines]
        return Reference((*run.calls(path), *said), tuple(_ending(run, book)))


def _ending(run: Run, book: Ledger) -> list[str]:
    if run.hung or run.killed or run.code or not book.ended:
        return [f"without a fault the workload ended with {run.code}: {run.lines[-1:]}"]
    return []


def plan(scenario: Scenario, template: Path, reference: Reference, mutant: str) -> list[Kill]:
    """A kill for each call of each kind, and one more of each kind that must miss.

    strace counts by thread, so the largest count of any thread is as far as one must go.
    """
    kinds: dict[tuple[str, str], int] = {}
    for (name, file, _), count in Counter((each.name, each.file, each.thread) for each in reference.calls).items():
        kinds[name, file] = max(kinds.get((name, file), 0), count)
    return [
        Kill(scenario, template, name, file, when, when > most, mutant)
        for (name, file), most in sorted(kinds.items())
        for when in range(1, most + 2)
    ]


def attempt(plan: Kill) -> Killed:
    """One kill, and a judgement of what it left."""
    with scratch() as folder:
        path = copy(plan.template, folder)
        run = workloads().run(plan.scenario.job(path, mutant=plan.mutant), arguments(path, plan.fault, (plan.call,)))
        book = plan.scenario.ledger(run.lines)
        problems = [
            *(["it hung"] if run.hung else []),
            *([book.broke] if book.broke else []),
            *judge(path, book),
        ]
        if not problems:
            problems = [f"run again: {each}" for each in finish(path, plan.scenario, run.lines)]
        place = len(run.lines) + 1 if plan.file == _SAYING else len(run.calls(path))
        return Killed(plan, place, run.killed and not run.hung, book, tuple(problems))


def missed(results: Sequence[Killed], reference: Reference) -> dict[tuple[str, str], list[int]]:
    """Which calls of the reference run no kill has hit: their places by call and file."""
    if not results[0].plan.scenario.steady:
        return {}
    found: dict[tuple[str, str], list[int]] = {}
    for kind in sorted({(each.name, each.file) for each in reference.calls if each.name != "fcntl"}):
        places = {each.place for each in results if each.hit and (each.plan.call, each.plan.file) == kind}
        calls = [each for each in reference.calls if (each.name, each.file) == kind]
        left = [place for place, each in enumerate(calls, 1) if each.changes and place not in places]
        found |= {kind: left} if left else {}
    return found


def account(section: Section, results: Sequence[Killed], reference: Reference) -> None:
    """Add the kills of one scenario to the section; every call of the reference run must have been hit."""
    scenario = results[0].plan.scenario
    for result in results:
        section.runs += 1
        section.operations += len(result.book.attempts) - len(scenario.before)
        section.acknowledged += result.book.acknowledged - len(scenario.before)
        section.failures += [f"{result.plan.kind} {result.plan.when}: {each}" for each in result.problems]
        section.hit[result.plan.kind] += result.hit
        section.planned[result.plan.kind] += result.hit or not result.plan.beyond
    for (call, file), places in missed(results, reference).items():
        section.failures.append(f"{scenario.name}: {call} {file or 'main'}: never killed at {places}")
