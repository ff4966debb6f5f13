"""Histories of stores that exist only here, right or wrong on purpose: what the checkers are proven on.

Clients are generators, and each ``yield`` is where another may go on; a seed decides who. Time is a counter.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterable
from enum import Enum
from typing import Any, TypeAlias

from .linearizability import Operation, Outcome
from .list_append import MicroOperation, Transaction, Values

Steps: TypeAlias = Generator[None, None, None]


class Mistake(Enum):
    """What is wrong with a store."""

    NONE = "none"
    STALE_READ = "stale read"
    """Registers: half of the reads give what two writes have replaced. Lists: reads alone see an old state."""
    NO_CHECK = "no check"
    """What was read is not compared when it is overwritten."""
    RETRIED = "retried"
    """What has no answer is sent again as something new."""
    FALSE_FAILURE = "false failure"
    """Registers only: what has no answer is reported as failed."""
    SNAPSHOT_ISOLATION = "snapshot isolation"
    """Lists only: what was read and not written is not compared."""


class _World:
    """A clock, the chance, and clients that take turns."""

    def __init__(self, seed: int, mistake: Mistake, unknown: float) -> None:
        self.random = random.Random(seed)
        self.mistake = mistake
        self.unknown = unknown
        self.now = 0
        self.running: list[Steps] = []

    def tick(self) -> int:
        """A moment, later than all before."""
        self.now += 1
        return self.now

    def run(self, clients: Iterable[Steps]) -> None:
        """Let them take turns until none is left."""
        self.running += clients
        while self.running:
            place = self.random.randrange(len(self.running))
            try:
                next(self.running[place])
            except StopIteration:
                self.running[place] = self.running[-1]
                self.running.pop()

    def loses(self) -> bool:
        """Whether the next answer is lost."""
        return self.random.random() < self.unknown

    def later(self, effect: Callable[[], Any]) -> None:
        """Let a call without an answer take effect some turns later, or at once, or never."""
        delay = self.random.choice([0, 0, 5, 50, None])
        if delay is not None:
            self.running.append(self._delayed(effect, delay))

    @staticmethod
    def _delayed(effect: Callable[[], Any], delay: int) -> Steps:
        for _ in range(delay):
            yield
        effect()


class _Registers(_World):
    def __init__(self, seed: int, mistake: Mistake, unknown: float, *, versions: bool) -> None:
        super().__init__(seed, mistake, unknown)
        self.versions = versions
        self.written: dict[str, list[Any]] = {}
        self.history: list[Operation] = []
        self.values = 0

    def new_value(self) -> int:
        self.values += 1
        return self.values

    def client(self, process: int, keys: int, operations: int) -> Steps:
        """One client: it remembers the version and value of its last answer, and writes on them."""
        known: dict[str, tuple[int, Any]] = {}
        for _ in range(operations):
            key = f"k{self.random.randrange(keys)}"
            kind = self.random.choice(("read", "write", "cas", "cas"))
            yield
            invoked = self.tick()
            yield
            if kind == "read":
                self.read(process, key, invoked, known)
            else:
                self.write(process, key, invoked, known, known.get(key, (0, None)) if kind == "cas" else None)
            yield

    def read(self, process: int, key: str, invoked: int, known: dict[str, tuple[int, Any]]) -> None:
        values = [None, *self.written.get(key, [])]
        back = 3 if self.mistake is Mistake.STALE_READ and len(values) > 3 and self.random.random() < 0.5 else 1
        known[key] = (len(values) - back, values[-back])
        self.add(process, key, "read", invoked, "done", known[key])

    def write(
        self,
        process: int,
        key: str,
        invoked: int,
        known: dict[str, tuple[int, Any]],
        expected: tuple[int, Any] | None,
    ) -> None:
        value = self.new_value()

        def apply() -> tuple[Outcome, tuple[int | None, Any]]:
            values = self.written.setdefault(key, [])
            actual = (len(values), values[-1] if values else None)
            if expected not in {None, actual} and self.mistake is not Mistake.NO_CHECK:
                known[key] = actual
                return "refused", (actual[0], value)
            values.append(value)
            return "done", (len(values), value)

        if self.loses():
            self.later(apply)
            if self.mistake is Mistake.RETRIED:
                self.later(apply)
            outcome: Outcome = "failed" if self.mistake is Mistake.FALSE_FAILURE else "unknown"
            answer: tuple[int | None, Any] = (None, value)
        else:
            outcome, answer = apply()
            if outcome == "done":
                known[key] = (answer[0] or 0, value)
        self.add(process, key, "write" if expected is None else "cas", invoked, outcome, answer, expected)

    def add(
        self,
        process: int,
        key: str,
        kind: Any,
        invoked: int,
        outcome: Outcome,
        answer: tuple[int | None, Any],
        expected: tuple[int, Any] | None = None,
    ) -> None:
        said: dict[str, Any] = {"version": answer[0]} if self.versions else {}
        if expected is not None:
            said |= {"expected_version": expected[0]} if self.versions else {"expected_value": expected[1]}
        returned = None if outcome == "unknown" else self.tick()
        self.history.append(
            Operation(
                process=process, key=key, kind=kind, invoked=invoked, returned=returned, outcome=outcome,
                value=answer[1], **said,
            )
        )  # fmt: skip


def registers(
    seed: int,
    mistake: Mistake = Mistake.NONE,
    *,
    clients: int = 5,
    operations: int = 30,
    keys: int = 1,
    unknown: float = 0.05,
    versions: bool = True,
) -> list[Operation]:
    """A history of registers, in which clients have so many operations each; without versions a cas goes by values."""
    world = _Registers(seed, mistake, unknown, versions=versions)
    world.run([world.client(process, keys, operations) for process in range(clients)])
    return world.history


class _Lists(_World):
    KEY_LENGTH = 40
    """Appends to a key, about, before another takes its place."""

    def __init__(self, seed: int, mistake: Mistake, unknown: float, keys: int) -> None:
        super().__init__(seed, mistake, unknown)
        self.keys = [f"k{number}" for number in range(keys)]
        self.made = keys
        self.states: dict[str, list[tuple[float, Values]]] = {}
        self.history: list[Transaction] = []
        self.values = 0

    def plan(self) -> list[MicroOperation]:
        """What the next transaction does: a few reads and appends."""
        place = self.random.randrange(len(self.keys))
        plan: list[MicroOperation] = []
        for _ in range(self.random.randint(1, 4)):
            key = self.keys[self.random.randrange(len(self.keys))]
            if self.random.random() < 0.5:
                plan.append(("r", key, None))
            else:
                self.values += 1
                plan.append(("append", key, self.values))
        if self.random.random() < 1 / self.KEY_LENGTH:
            self.keys[place] = f"k{self.made}"
            self.made += 1
        return plan

    def at(self, key: str, moment: float) -> Values:
        """A list as it was."""
        return next((values for since, values in reversed(self.states.get(key, [])) if since <= moment), ())

    def client(self, process: int, transactions: int) -> Steps:
        for _ in range(transactions):
            plan = self.plan()
            yield
            start = self.tick()
            yield
            is_stale = self.mistake is Mistake.STALE_READ and all(kind == "r" for kind, _, _ in plan)
            snapshot = self.tick() - (200 if is_stale else 0)
            done: list[MicroOperation] = []
            own: dict[str, Values] = {}
            for kind, key, value in plan:
                yield
                if kind == "append":
                    own[key] = (*own.get(key, ()), value)
                    done.append((kind, key, value))
                else:
                    done.append((kind, key, self.at(key, snapshot) + own.get(key, ())))
            yield
            outcome = self.commit(snapshot, done, own)
            yield
            end = None if outcome == "unknown" else self.tick()
            self.history.append(
                Transaction(process=process, start=start, end=end, outcome=outcome, operations=tuple(done))
            )

    def commit(self, snapshot: int, done: list[MicroOperation], own: dict[str, Values]) -> Any:
        """Commit, and say what the client gets to hear."""
        compared = {
            Mistake.NO_CHECK: set(),
            Mistake.SNAPSHOT_ISOLATION: set(own),
        }.get(self.mistake, {key for _, key, _ in done})

        def apply(*, again: bool = False) -> str:
            if own and not again and any(self.states.get(key, [(-1, ())])[-1][0] > snapshot for key in compared):
                return "aborted"
            now = self.tick()
            for key, values in own.items():
                read = math.inf if again else snapshot
                self.states.setdefault(key, []).append((now, self.at(key, read) + values))
            return "committed"

        if not self.loses():
            return apply()
        self.later(apply)
        if self.mistake is Mistake.RETRIED:
            self.later(lambda: apply(again=True))
        return "unknown"


def lists(
    seed: int,
    mistake: Mistake = Mistake.NONE,
    *,
    clients: int = 6,
    transactions: int = 40,
    keys: int = 3,
    unknown: float = 0.05,
) -> list[Transaction]:
    """A history of lists, in which clients have so many transactions each."""
    world = _Lists(seed, mistake, unknown, keys)
    world.run([world.client(process, transactions) for process in range(clients)])
    return world.history
