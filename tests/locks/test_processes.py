"""Locks between real processes: stopped past their lease, killed, with clocks an hour apart; and their deadlocks."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from tai_state import ChangeMetadata, StateMachinePersister, open_store
from tai_state.testing.emulator import Emulator, fresh_project

from ..support.crew import HANG_SECONDS, Crew, Said
from ..support.lock_worker import COUNTER, GOVERNOR

LONG = os.environ.get("TAI_STATE_PROOF") == "1"
PAUSES = 60 if LONG else 6
"""Of each engine under each set of clocks."""
WORKERS = 4
TTL = 0.6
"""Seconds: short, so that a lease is soon over."""
WRITES = 3
"""In a tenure."""
RINGS = 60 if LONG else 4
ORDERED = 1_002 if LONG else 60
"""Runs without a circle, of three processes together."""

_FAKETIME = next(map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), "")
_OFFSETS = (3600, -3600, 1800, -1800)


@dataclass(frozen=True)
class Clocks:
    """Which clocks of the processes are not those of the machine."""

    wall: bool
    monotonic: bool

    def environment(self, number: int) -> dict[str, str]:
        """Gives a process, by its number, clocks of its own."""
        if not self.wall:
            return {}
        return {
            "LD_PRELOAD": _FAKETIME,
            "FAKETIME": f"{_OFFSETS[number % len(_OFFSETS)]:+}s",
            "FAKETIME_DONT_FAKE_MONOTONIC": "0" if self.monotonic else "1",
        }

    def check(self, number: int, wall: float, monotonic: float) -> None:
        """That they are so: what the process reads, against what this one does."""
        offset = _OFFSETS[number % len(_OFFSETS)] if self.wall else 0
        assert abs(wall - time.time() - offset) < HANG_SECONDS
        assert (abs(monotonic - time.monotonic()) > HANG_SECONDS) == self.monotonic


CLOCKS = {
    "one clock": Clocks(wall=False, monotonic=False),
    "an hour apart": Clocks(wall=True, monotonic=False),
    "an hour apart, monotonic too": Clocks(wall=True, monotonic=True),
}


@pytest.fixture
def seed() -> int:
    """Printed; to be given again as ``TAI_STATE_SEED``."""
    seed = int(os.environ.get("TAI_STATE_SEED") or random.SystemRandom().randrange(2**32))
    print(f"repeat with TAI_STATE_SEED={seed}")
    return seed


@pytest.fixture(params=["sqlite", "firestore"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty store that several processes can share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    emulator: Emulator = request.getfixturevalue("firestore_emulator")
    assert os.environ["FIRESTORE_EMULATOR_HOST"] == emulator.host
    return f"firestore://{fresh_project()}"


@dataclass
class Account:
    """What was done to the processes, and what came of it.

    Attributes:
        counts: of pauses, kills, takeovers and answers.
        seconds: from each pause or kill to when another one had the lock.
        outcomes: what each process said became of each of its changes.
        fences: who said to hold by which fence.
        problems: what must not be.
    """

    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    fences: dict[int, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        return f"{counts}; taken over in {statistics.median(self.seconds):.2f} s, {max(self.seconds):.2f} s at most"


class Trial:
    """Processes that count, and what is done to them.

    Args:
        crew: of them.
        clocks: of the processes.
        fenced: whether they give their lease with what they write.
        chance: for what is left to it.
    """

    def __init__(self, crew: Crew, clocks: Clocks, chance: random.Random, *, fenced: bool = True) -> None:
        self.account = Account()
        self._crew = crew
        self._clocks = clocks
        self._chance = chance
        self._fenced = fenced
        self._started = 0
        self._names: set[str] = set()

    def start(self) -> None:
        """Another process that counts."""
        name = f"worker{self._started}"
        self._crew.start(name, self._clocks.environment(self._started))
        self._crew.tell(name, job="count", ttl_seconds=TTL, writes=WRITES, fenced=self._fenced)
        ready = self._until(lambda said: said.what == "ready" and said.name == name)
        self._clocks.check(self._started, *ready.words)
        self._started += 1
        self._names.add(name)

    def stop_at_a_write(self) -> None:
        """Stop one between its read and its write until another has the lock: the write must then be refused."""
        self._crew.signal(self._someone_who_holds().name, signal.SIGUSR1)
        stopped = self._until(lambda said: said.what == "stops")
        self._let_another_take_over(stopped)
        self._crew.signal(stopped.name, signal.SIGCONT)
        answer = self._until(lambda said: said.name == stopped.name and said.what in _OUTCOMES)
        self.account.counts[f"late writes {answer.what}"] += 1
        if answer.what != "refused":
            self.account.problems.append(f"after another one took over, a write by fence {stopped.words[0]}: {answer}")

    def stop_anywhere(self) -> None:
        """Stop one wherever it is just now, also in the middle of a commit, until others had time to take over."""
        name = self._someone_who_holds().name
        for _ in range(self._chance.randrange(2 * WRITES)):
            self._until(lambda _: True)
        self._crew.signal(name, signal.SIGSTOP)
        until = time.monotonic() + 2 * TTL
        while (left := until - time.monotonic()) > 0:
            said = self._crew.hear(left)
            if said is not None:
                self._note(said)
        self._crew.signal(name, signal.SIGCONT)
        self.account.counts["stopped anywhere"] += 1

    def kill(self) -> None:
        """Kill one that holds the lock: another one must get it."""
        holder = self._someone_who_holds()
        self._crew.kill(holder.name)
        self._names.discard(holder.name)
        self._let_another_take_over(holder)
        self.account.counts["killed"] += 1
        self.start()

    def end(self) -> None:
        """Let all of them end well."""
        for name in self._names:
            self._crew.signal(name, signal.SIGTERM)
        left = set(self._names)
        while left:
            said = self._until(lambda said: said.what == "ended")
            left.discard(said.name)
        for name in self._names:
            code = self._crew.dismiss(name)
            if code != 0:
                self.account.problems.append(f"{name} ended with {code}")

    def _someone_who_holds(self) -> Said:
        return self._until(lambda said: said.what == "holds" and said.name in self._names)

    def _let_another_take_over(self, late: Said) -> None:
        [fence] = late.words
        began = time.monotonic()
        self._until(lambda said: said.what == "holds" and said.words[0] > fence)
        self.account.seconds.append(time.monotonic() - began)

    def _until(self, is_it: Callable[[Said], bool]) -> Said:
        while True:
            said = self._crew.hear()
            assert said is not None, f"nobody says anything any more: {self.account}"
            self._note(said)
            if is_it(said):
                return said

    def _note(self, said: Said) -> None:
        account = self.account
        account.counts[said.what] += 1
        if said.what == "holds":
            [fence] = said.words
            if fence in account.fences:
                account.problems.append(f"{said.name} and {account.fences[fence]} hold by the same fence {fence}")
            account.fences[fence] = said.name
        elif said.what in _OUTCOMES:
            account.outcomes[said.words[0]] = said.what


_OUTCOMES = ("wrote", "refused", "unknown", "failed")


async def begin(url: str) -> None:
    """Make the counter."""
    async with open_store(url) as store:
        await store.save_state(GOVERNOR, COUNTER, {"n": 0, "fence": 0}, ChangeMetadata("tester", "begins"))


async def judge(url: str, account: Account) -> list[str]:
    """What the stored history contradicts: of fences, of counts, and of what the processes said."""
    problems: list[str] = []
    stored: set[str] = set()
    last = 0
    async with open_store(url) as store:
        async for event in StateMachinePersister(store).replay(GOVERNOR, COUNTER, after=1):
            assert event.to_state is not None
            number, fence = event.to_state["n"], event.to_state["fence"]
            stored.add(event.event_id)
            if fence < last:
                problems.append(f"version {event.version} was written by fence {fence}, after one by {last}")
            if number != event.version - 1:
                problems.append(f"version {event.version} counts {number}: an increment was lost")
            holder = account.fences.get(fence)
            if holder is not None and holder != event.metadata.changed_by:
                problems.append(f"version {event.version} was written by {event.metadata.changed_by}, not by {holder}")
            last = max(last, fence)
    said: dict[str, set[str]] = {outcome: set() for outcome in _OUTCOMES}
    for change, outcome in account.outcomes.items():
        said[outcome].add(change)
    problems += [f"{change} was acknowledged and is not stored" for change in said["wrote"] - stored]
    problems += [f"{change} was refused and is stored" for change in (said["refused"] | said["failed"]) & stored]
    return account.problems + problems


def proven(url: str, clocks: str, pauses: int, seed: int, *, fenced: bool = True) -> tuple[Account, list[str]]:
    """Let processes count while they are stopped and killed; what came of it."""
    if CLOCKS[clocks].wall and not _FAKETIME:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs faketime, to give processes clocks of their own")
    chance = random.Random(seed)
    anyio.run(begin, url)
    with Crew(url, {}) as crew:
        trial = Trial(crew, CLOCKS[clocks], chance, fenced=fenced)
        for _ in range(WORKERS):
            trial.start()
        for number in range(pauses):
            (trial.stop_anywhere if number % 3 == 2 else trial.stop_at_a_write)()
            if number % 6 == 5:
                trial.kill()
        trial.end()
    return trial.account, anyio.run(judge, url, trial.account)


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("clocks", CLOCKS)
def test_a_late_holder_is_refused(url: str, clocks: str, seed: int):
    """Every write that comes after another one took over is refused, fences only grow, and who waits gets the lock."""
    account, problems = proven(url, clocks, PAUSES, seed)
    print(account)
    assert not problems, "\n".join(problems)
    assert account.counts["late writes refused"] >= PAUSES // 2
    assert account.counts["wrote"] > PAUSES


def test_writes_without_a_fence_are_found(tmp_path: Path, seed: int):
    """The trial sees the harm that late writes do: without a fence they overwrite what the next holder did."""
    _, problems = proven(f"sqlite:///{tmp_path}/store.db", "one clock", 2, seed, fenced=False)
    assert any("after another one took over" in problem for problem in problems), problems


@pytest.mark.timeout(1_200)
def test_deadlocks_are_found_and_broken(url: str):
    """Of three processes that wait for each other in a circle one gives up, and the others go on."""
    names = ["ana", "ben", "cleo"]
    with Crew(url, {}) as crew:
        for name in names:
            crew.start(name)
        crew.hear_all("ready", len(names))
        for run in range(RINGS):
            wants = [f"{run}-{each}" for each in names]
            for name, own, other in zip(names, wants, [*wants[1:], wants[0]], strict=True):
                crew.tell(name, job="ring", own=own, other=other, ttl_seconds=30.0, search_seconds=0.05)
            crew.hear_all("holds", len(names))
            for name in names:
                crew.tell(name)
            said = _until_all_released(crew, len(names))
            assert Counter(each.what for each in said) == {"got": 2, "deadlock": 1, "released": 3}, said
            [cycle] = [each.words for each in said if each.what == "deadlock"]
            assert sorted(cycle) == sorted(wants)
        assert [crew.dismiss(name) for name in names] == [0, 0, 0]


@pytest.mark.timeout(1_200)
def test_no_deadlock_is_seen_where_there_is_none(url: str, seed: int):
    """Processes that acquire several locks in one order wait for each other, and never in a circle."""
    names = ["ana", "ben", "cleo"]
    with Crew(url, {}) as crew:
        for number, name in enumerate(names):
            crew.start(name)
            crew.tell(
                name,
                job="ordered",
                resources=["a", "b", "c", "d"],
                runs=ORDERED // len(names),
                seed=seed + number,
                search_seconds=0.005,
            )
        said: list[Said] = []
        while sum(each.what == "ran" for each in said) < len(names):
            heard = crew.hear()
            assert heard is not None, said
            said.append(heard)
        assert not [each for each in said if each.what == "false"]
        searches = sum(each.words[1] for each in said if each.what == "ran")
        print(f"{ORDERED} runs, {searches} searches")
        assert searches > (ORDERED / 10 if LONG else 0)
        assert [crew.dismiss(name) for name in names] == [0, 0, 0]


def _until_all_released(crew: Crew, count: int) -> Sequence[Said]:
    said: list[Said] = []
    while sum(each.what == "released" for each in said) < count:
        heard = crew.hear()
        assert heard is not None, f"nobody says anything any more after {said}"
        said.append(heard)
    return said
