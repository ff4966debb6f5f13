"""Whether transactions over lists are strictly serializable, and what is wrong where they are not.

The inference of Elle (Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations",
2020): each value is appended once, so a list that is read is the order of its writers. Names are Adya's (1999).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeAlias

from .dependency_graph import RW, WR, WW, Graph

MicroOperation: TypeAlias = tuple[Literal["append", "r"], str, Any]
"""``("append", key, value)``, or ``("r", key, list)``; None for a list that is not known."""

Values: TypeAlias = tuple[Hashable, ...]

SHOWN_MAX = 3
"""How many anomalies of a name a report spells out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transaction:
    """One transaction, with what it did in order.

    Attributes:
        process: who did it.
        start: when it was begun, by any clock that all processes share; a counter is best.
        end: when its answer came; None where none came.
        outcome: ``unknown`` where it may have been committed, or may yet be.
        operations: what it did. Attempts that the store itself repeats are one transaction.
    """

    process: int
    start: float
    end: float | None
    outcome: Literal["committed", "aborted", "unknown"]
    operations: tuple[MicroOperation, ...]

    def __str__(self) -> str:
        until = "" if self.end is None else f"{self.end:g}"
        did = ", ".join(
            f"append {key} {value!r}" if kind == "append" else f"r {key} {'?' if value is None else list(value)}"
            for kind, key, value in self.operations
        )
        return f"process {self.process} [{self.start:g}..{until}] {self.outcome}: {did}"


@dataclass(frozen=True)
class Anomaly:
    """One thing that is wrong.

    Attributes:
        name: like ``lost update`` or ``G2``.
        transactions: their places in the history.
        text: why.
    """

    name: str
    transactions: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the checker found.

    Attributes:
        transactions: how many there were.
        outcomes: how many were reported as committed, aborted, unknown.
        found: unknown ones that turned out to be committed.
        anomalies: everything that is wrong.
    """

    transactions: int
    outcomes: Counter[str]
    found: int
    anomalies: tuple[Anomaly, ...]

    @property
    def ok(self) -> bool:
        """Whether the history is strictly serializable."""
        return not self.anomalies

    @property
    def names(self) -> Counter[str]:
        """How many anomalies of each name."""
        return Counter(anomaly.name for anomaly in self.anomalies)

    @property
    def unknown_share(self) -> float:
        """Transactions that stayed unknown, among all."""
        return (self.outcomes["unknown"] - self.found) / self.transactions if self.transactions else 0.0

    def __str__(self) -> str:
        counts = ", ".join(f"{self.outcomes[name]} {name}" for name in ("committed", "aborted", "unknown"))
        lines = [f"{self.transactions} transactions ({counts}, {self.found} of these found committed)"]
        shown: Counter[str] = Counter()
        for anomaly in self.anomalies:
            shown[anomaly.name] += 1
            if shown[anomaly.name] <= SHOWN_MAX:
                lines.append(str(anomaly))
        lines += [
            f"{name}: {count - SHOWN_MAX} more" for name, count in sorted(self.names.items()) if count > SHOWN_MAX
        ]
        return "\n".join(lines if self.anomalies else [f"{lines[0]}: strictly serializable"])


def check(transactions: Iterable[Transaction]) -> Report:
    """Judge a history, from its beginning, when all lists were empty.

    Raises:
        ValueError: this is no history that can be judged.
    """
    history = tuple(transactions)
    outcomes = Counter(transaction.outcome for transaction in history)
    book = _Book(history)
    book.judge()
    return Report(
        transactions=len(history),
        outcomes=Counter(outcomes),
        found=len(book.committed) - outcomes["committed"],
        anomalies=tuple(book.anomalies),
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """A list as a committed transaction found it: ``found`` without, ``full`` with what it had appended itself."""

    reader: int
    found: Values
    full: Values


@dataclass
class _Book:
    """A history with all that follows from it."""

    history: tuple[Transaction, ...]
    anomalies: list[Anomaly] = field(default_factory=list)

    def judge(self) -> None:
        """Find everything that is wrong."""
        self.writers: dict[str, dict[Hashable, int]] = {}
        self.intermediate: set[tuple[str, Hashable]] = set()
        for number, transaction in enumerate(self.history):
            self._check_sense(transaction)
            self._enter(number, transaction)
        self.committed = self._committed()
        self.reads: dict[str, list[_Read]] = {}
        for number in sorted(self.committed):
            for key, read in self._reads_of(number):
                self.reads.setdefault(key, []).append(read)
        self.orders = {key: self._order(key, reads) for key, reads in self.reads.items()}
        self.graph = Graph(len(self.history))
        for key in self.reads:
            self._judge_reads(key)
            self._add_order(key)
            self._add_unseen(key)
        self.graph.add_times(
            [(number, self.history[number].start, self._end(number)) for number in sorted(self.committed)]
        )
        for cycle in self.graph.cycles():
            reasons = "".join(f"\n  {step}" for step in cycle.steps())
            self._add(cycle.name, cycle.nodes, f"no order of {len(cycle.nodes)} transactions{reasons}")

    def _add(self, name: str, numbers: Iterable[int], text: str) -> None:
        """One more thing that is wrong."""
        numbers = tuple(dict.fromkeys(numbers))
        shown = "".join(f"\n  T{number} is {self.history[number]}" for number in numbers)
        self.anomalies.append(Anomaly(name, numbers, text + shown))

    def _check_sense(self, transaction: Transaction) -> None:
        if transaction.outcome != "unknown" and transaction.end is None:
            raise ValueError(f"no end: {transaction}")
        if transaction.end is not None and transaction.end < transaction.start:
            raise ValueError(f"ended before it began: {transaction}")

    def _end(self, number: int) -> float:
        """When it was over; never for an unknown one, whose effect comes at any later time."""
        transaction = self.history[number]
        return math.inf if transaction.outcome == "unknown" or transaction.end is None else transaction.end

    def _enter(self, number: int, transaction: Transaction) -> None:
        """Who appended what, and which values the same transaction then appended to."""
        last: dict[str, Hashable] = {}
        for kind, key, value in transaction.operations:
            if kind != "append":
                continue
            if value in self.writers.setdefault(key, {}):
                raise ValueError(f"{value!r} is appended to {key} twice: {transaction}")
            self.writers[key][value] = number
            if key in last:
                self.intermediate.add((key, last[key]))
            last[key] = value

    def _committed(self) -> set[int]:
        """Those reported as committed, and unknown ones whose values these, or others found so, have read."""
        open_values: dict[str, set[Hashable]] = {}
        for key, writers in self.writers.items():
            unknown = {value for value, number in writers.items() if self.history[number].outcome == "unknown"}
            if unknown:
                open_values[key] = unknown
        committed = {number for number, each in enumerate(self.history) if each.outcome == "committed"}
        waiting = list(committed) if open_values else []
        while waiting:
            for kind, key, value in self.history[waiting.pop()].operations:
                if kind == "r" and value is not None and key in open_values:
                    new = {self.writers[key][each] for each in open_values[key].intersection(value)} - committed
                    committed |= new
                    waiting += new
        return committed

    def _reads_of(self, number: int) -> Iterator[tuple[str, _Read]]:
        """What a transaction found of others; an anomaly where that is not one list with its own values at the end."""
        own: dict[str, Values] = {}
        found: dict[str, Values] = {}
        transaction = self.history[number]
        appended = {(key, value) for kind, key, value in transaction.operations if kind == "append"}
        for kind, key, value in transaction.operations:
            mine = own.get(key, ())
            if kind == "append":
                own[key] = (*mine, value)
                continue
            if value is None:
                continue
            full = tuple(value)
            others = full[: len(full) - len(mine)]
            ends_right = not mine or full[-len(mine) :] == mine
            is_early = bool(appended) and not mine and any((key, each) in appended for each in others)
            if not ends_right or is_early or found.get(key, others) != others:
                self._add("internal", [number], f"{key} is not what T{number} itself has read or appended")
                continue
            found[key] = others
            yield key, _Read(number, others, full)

    def _order(self, key: str, reads: Sequence[_Read]) -> Values:
        """The longest list; an anomaly for each that is not its beginning, and for each value that it holds twice."""
        longest = max(reads, key=lambda read: len(read.full))
        strange = [read for read in reads if longest.full[: len(read.full)] != read.full]
        for read in strange:
            self._add("incompatible order", [longest.reader, read.reader], f"neither list of {key} continues the other")
        doubled: set[Hashable] = set()
        for read in (longest, *strange):
            if len(set(read.full)) == len(read.full):
                continue
            for value, count in Counter(read.full).items():
                if count > 1 and value not in doubled:
                    doubled.add(value)
                    writer = self.writers.get(key, {}).get(value, read.reader)
                    self._add("duplicate append", [writer, read.reader], f"{key} holds {value!r} {count} times")
        return tuple(dict.fromkeys(longest.full))

    def _judge_reads(self, key: str) -> None:
        """Values that no committed transaction has left: aborted, never written, overwritten by their own writer."""
        writers = self.writers.get(key, {})
        order = self.orders[key]
        judged: set[Hashable] = set()
        updates: dict[tuple[int, Hashable], list[int]] = {}
        for read in self.reads[key]:
            values = order if read.full == order else () if order[: len(read.full)] == read.full else read.full
            for value in values:
                if value in judged:
                    continue
                judged.add(value)
                if value not in writers:
                    self._add("unwritten value", [read.reader], f"nobody appended {value!r} to {key}")
                elif writers[value] not in self.committed:
                    self._add("G1a", [writers[value], read.reader], f"{key} holds {value!r}, which was aborted")
            last = read.found[-1] if read.found else None
            if (key, last) in self.intermediate:
                self._add("G1b", [writers[last], read.reader], f"{key} was read in the middle of a transaction")
            if read.reader not in updates.setdefault((len(read.found), last), []):
                updates[len(read.found), last].append(read.reader)
        changed = {number for value, number in writers.items() if number in self.committed}
        for readers in updates.values():
            both = [number for number in readers if number in changed]
            if len(both) > 1:
                self._add("lost update", both, f"{len(both)} transactions read the same {key}, then appended to it")

    def _add_order(self, key: str) -> None:
        """Edges of the values that were seen."""
        order, writers = self.orders[key], self.writers.get(key, {})
        chain = [writers[value] if writers.get(value) in self.committed else None for value in order]
        kept = [number for number in chain if number is not None]
        for before, after in pairwise(kept):
            self.graph.add(before, after, WW, key)
        for read in self.reads[key]:
            count = len(read.found)
            if count and writers.get(read.found[-1]) in self.committed:
                self.graph.add(writers[read.found[-1]], read.reader, WR, key)
            if order[:count] == read.found:
                for after in (number for number in chain[count:] if number is not None):
                    self.graph.add(read.reader, after, RW, key)
                    break

    def _add_unseen(self, key: str) -> None:
        """Committed values that nobody saw come after all that was; lost, where a later transaction should have."""
        order, writers, reads = self.orders[key], self.writers.get(key, {}), self.reads[key]
        seen = set(order).union(*(read.full for read in reads if order[: len(read.full)] != read.full))
        last = next((writers[value] for value in reversed(order) if writers.get(value) in self.committed), None)
        latest = max(reads, key=lambda read: self.history[read.reader].start).reader
        whole = [read.reader for read in reads if read.full == order]
        for value, number in writers.items():
            if value in seen or number not in self.committed:
                continue
            if self._end(number) < self.history[latest].start:
                self._add("lost append", [number, latest], f"{key} lacks {value!r}, which was appended before")
                continue
            if last is not None:
                self.graph.add(last, number, WW, key)
            for reader in whole:
                self.graph.add(reader, number, RW, key)
