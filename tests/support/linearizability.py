"""Whether a history of operations on registers is linearizable, and where it stops to be.

The search of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of what was tried
("Testing for Linearizability", 2017), one key at a time: a history is linearizable if it is for each object (Herlihy
and Wing, 1990).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar

Kind: TypeAlias = Literal["read", "write", "cas"]
Outcome: TypeAlias = Literal["done", "refused", "failed", "unknown"]
State = TypeVar("State", bound=Hashable)

STEPS_MAX = 2_000_000
"""Steps of the search for one key; a few seconds."""

SHOWN_MAX = 8
"""How many operations of an order that did fit are shown: the last ones."""

UNSAID: Final = ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One operation on one register.

    Attributes:
        process: who did it.
        key: the register.
        kind: what was done; ``cas`` writes only where the register is as expected.
        invoked: when it began, by any clock that all processes share; a counter is best.
        returned: when its answer came; None where none came.
        outcome: ``done``; ``refused``: it took no effect, because the register was not as expected; ``failed``: it
            took no effect, and says nothing of the register; ``unknown``: it takes effect at any later time, or never.
        value: what was read, or was to be written.
        version: which was read or made, or was found instead of the expected one; None where the answer does not say.
        expected_version: of a ``cas``.
        expected_value: of a ``cas`` that goes by values.
    """

    process: int
    key: str
    kind: Kind
    invoked: float
    returned: float | None = None
    outcome: Outcome = "done"
    value: Hashable = None
    version: int | None = None
    expected_version: int | None = None
    expected_value: Hashable = UNSAID

    @property
    def end(self) -> float:
        """When its answer came; never, where none came."""
        return math.inf if self.returned is None else self.returned

    @property
    def counts(self) -> bool:
        """Whether it bears on the verdict: what failed, and a read without an answer, does not."""
        return self.outcome in {"done", "refused"} or (self.outcome == "unknown" and self.kind != "read")

    def __str__(self) -> str:
        if self.kind == "cas":
            expected = [] if self.expected_version is None else [f"version {self.expected_version}"]
            expected += [] if self.expected_value is UNSAID else [repr(self.expected_value)]
            what = f"cas {' '.join(expected)} -> {self.value!r}"
        else:
            what = f"{self.kind} {self.value!r}"
        said = "" if self.version is None else f" (version {self.version})"
        result = "" if self.outcome == "done" else f", {self.outcome}"
        until = "" if self.returned is None else f"{self.returned:g}"
        return f"process {self.process} [{self.invoked:g}..{until}] {what}{result}{said}"


class Model(Protocol[State]):
    """One object without concurrency. A step that leaves the state as it is must depend on nothing but the state."""

    @property
    def initial(self) -> State:
        """The state before the first operation."""

    def step(self, state: State, operation: Operation) -> tuple[bool, State]:
        """Whether an operation can take effect in a state with the outcome it had; the state after it."""


@dataclass(frozen=True)
class Register:
    """A register with a version, which each write raises by one.

    Attributes:
        version: before the first operation.
        value: before the first operation.
    """

    version: int = 0
    value: Hashable = None

    @property
    def initial(self) -> tuple[int, Hashable]:
        """Version and value before the first operation."""
        return self.version, self.value

    def step(self, state: tuple[int, Hashable], operation: Operation) -> tuple[bool, tuple[int, Hashable]]:
        """One operation; an unknown one takes effect here, or is never asked for."""
        version, value = state
        said = operation.version
        if operation.kind == "read":
            return operation.value == value and said in {None, version}, state
        holds = operation.expected_version in {None, version} and operation.expected_value in (UNSAID, value)
        if operation.outcome == "refused":
            return not holds and said in {None, version}, state
        return holds and said in {None, version + 1}, (version + 1, operation.value)


class CheckerTimeout(Exception):
    """The search took more steps than it may; nothing is known about the history."""

    def __init__(self, key: str, steps_max: int) -> None:
        super().__init__(f"{key}: no verdict after {steps_max} steps; use fewer operations a key")
        self.key, self.steps_max = key, steps_max


@dataclass(frozen=True)
class Violation:
    """Why a history is not linearizable.

    Attributes:
        key: the register.
        order: an order of all that had returned before ``stuck`` did, as far as one exists.
        state: after that order.
        stuck: the first operation, by its answer, that fits nowhere.
        beside: operations that overlap it and are not in the order.
    """

    key: str
    order: tuple[Operation, ...]
    state: Any
    stuck: Operation
    beside: tuple[Operation, ...]

    def __str__(self) -> str:
        hidden = len(self.order) - SHOWN_MAX
        lines = [f"{self.key} is not linearizable; {len(self.order)} operations fit an order:"]
        lines += [f"  … {hidden} more"] if hidden > 0 else []
        lines += [f"  {operation}" for operation in self.order[-SHOWN_MAX:]]
        lines += [f"after these: {self.state}", f"fits nowhere: {self.stuck}"]
        lines += [f"  beside it: {operation}" for operation in self.beside]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the checker found.

    Attributes:
        operations: how many there were.
        unknown: those without an answer.
        keys: how many registers were searched.
        steps: what it took.
        violation: the first one; None where the history is linearizable.
    """

    operations: int
    unknown: int
    keys: int
    steps: int
    violation: Violation | None

    @property
    def ok(self) -> bool:
        """Whether the history is linearizable."""
        return self.violation is None

    @property
    def unknown_share(self) -> float:
        """Unknown operations among all; many of them excuse what is wrong."""
        return self.unknown / self.operations if self.operations else 0.0

    def __str__(self) -> str:
        summary = (
            f"{self.operations} operations on {self.keys} keys, {self.unknown_share:.1%} unknown, {self.steps} steps"
        )
        return f"{summary}: {'linearizable' if self.violation is None else self.violation}"


def check(operations: Iterable[Operation], model: Model[Any] | None = None, *, steps_max: int = STEPS_MAX) -> Verdict:
    """Judge a history.

    Args:
        operations: in any order; the values written to one key are unique.
        model: of each key; a register that was never written, where it is not given.
        steps_max: of the search for one key.

    Raises:
        CheckerTimeout: the search took more steps.
        ValueError: this is no history that can be judged.
    """
    model = Register() if model is None else model
    history = list(operations)
    by_key: dict[str, list[Operation]] = {}
    for operation in history:
        _check_sense(operation)
        by_key.setdefault(operation.key, []).append(operation)
    for key, mine in by_key.items():
        _check_unique(key, mine)
    steps, keys, violation = 0, 0, None
    for key, mine in sorted(by_key.items()):
        search = _Search(key, [operation for operation in mine if operation.counts], model, steps_max)
        violation = search.run()
        steps, keys = steps + search.steps, keys + 1
        if violation is not None:
            break
    unknown = sum(operation.outcome == "unknown" for operation in history)
    return Verdict(operations=len(history), unknown=unknown, keys=keys, steps=steps, violation=violation)


def _check_sense(operation: Operation) -> None:
    """An answer has a time, and comes after the question; only what was expected can be refused."""
    if operation.outcome in {"done", "refused"} and operation.returned is None:
        raise ValueError(f"no time of return: {operation}")
    if operation.end < operation.invoked:
        raise ValueError(f"returned before it was invoked: {operation}")
    if operation.outcome == "refused" and operation.kind != "cas":
        raise ValueError(f"only a cas is refused: {operation}")
    if operation.kind == "cas" and operation.expected_version is None and operation.expected_value is UNSAID:
        raise ValueError(f"a cas expects something: {operation}")


def _check_unique(key: str, operations: Sequence[Operation]) -> None:
    """Equal values excuse each other; None stands for a register that was cleared, which versions tell apart."""
    written = Counter(
        operation.value
        for operation in operations
        if operation.kind != "read" and operation.outcome in {"done", "unknown"} and operation.value is not None
    )
    for value, count in written.items():
        if count > 1:
            raise ValueError(f"{key}: {value!r} was written {count} times")


@dataclass(slots=True)
class _Frame(Generic[State]):
    """Operations in an order, as a set; the state after them, and what may come next."""

    placed: int
    first: int
    state: State
    choices: Iterator[int]
    chosen: int = -1


@dataclass
class _Search(Generic[State]):
    """A depth-first search for an order of the operations on one key."""

    key: str
    operations: list[Operation]
    model: Model[State]
    steps_max: int
    steps: int = 0
    frames: list[_Frame[State]] = field(default_factory=list)

    def run(self) -> Violation | None:
        """None where there is an order."""
        # What must take effect comes first, by its invocation; what may or may not, after it.
        self.operations.sort(key=lambda operation: (operation.outcome == "unknown", operation.invoked, operation.end))
        self.required = sum(operation.outcome != "unknown" for operation in self.operations)
        self.invoked = [operation.invoked for operation in self.operations]
        self.ends = [operation.end for operation in self.operations]
        self.best: tuple[tuple[float, int, int], tuple[int, ...], State] | None = None
        everything = (1 << self.required) - 1
        seen: set[tuple[int, State]] = set()
        self._push(0, 0, self.model.initial)
        while self.frames:
            frame = self.frames[-1]
            if frame.placed & everything == everything:
                return None
            for index in frame.choices:
                self.steps += 1
                if self.steps > self.steps_max:
                    raise CheckerTimeout(self.key, self.steps_max)
                fits, state = self.model.step(frame.state, self.operations[index])
                placed = frame.placed | 1 << index
                if not fits or (placed, state) in seen:
                    continue
                seen.add((placed, state))
                if state == frame.state and index < self.required:
                    # It changes nothing: if it fits later, too, it fits here as well, so nothing else need be tried.
                    frame.choices = iter(())
                frame.chosen = index
                self._push(placed, frame.first, state)
                break
            else:
                self.frames.pop()
        return self._violation()

    def _push(self, placed: int, first: int, state: State) -> None:
        """Add a frame: what may come next was invoked before any other that is still to come returned."""
        while placed >> first & 1:
            first += 1
        deadline, choices = math.inf, []
        for index in range(first, self.required):
            if placed >> index & 1:
                continue
            if self.invoked[index] > deadline:
                break
            deadline = min(deadline, self.ends[index])
            choices.append(index)
        choices.sort(key=self.ends.__getitem__)
        for index in range(self.required, len(self.operations)):
            if self.invoked[index] > deadline:
                break
            if not placed >> index & 1:
                choices.append(index)
        certain = (placed & ((1 << self.required) - 1)).bit_count()
        reached = (deadline, certain, certain - placed.bit_count())
        if self.best is None or reached > self.best[0]:
            self.best = (reached, tuple(frame.chosen for frame in self.frames), state)
        self.frames.append(_Frame(placed, first, state, iter(choices)))

    def _violation(self) -> Violation:
        """What got furthest, with the fewest unknown operations: it places all that returned before ``stuck`` did."""
        assert self.best is not None
        (deadline, _, _), order, state = self.best
        left = [
            operation
            for index, operation in enumerate(self.operations)
            if index not in set(order) and operation.invoked <= deadline
        ]
        stuck = next(operation for operation in left if operation.end == deadline)
        beside = tuple(operation for operation in left if operation is not stuck)
        return Violation(self.key, tuple(self.operations[index] for index in order), state, stuck, beside)
