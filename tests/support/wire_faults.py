"""What can go wrong with a call to Firestore, the plans that say when, and the account of what happened."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TypeAlias

import msgspec


class Fault(Enum):
    """What can go wrong with one call. Of a call that streams its answer, *after* means after its first message."""

    UNAVAILABLE = "unavailable"
    """Never reaches the server: UNAVAILABLE."""
    ABORTED = "aborted"
    """Never reaches the server: ABORTED."""
    EXHAUSTED = "exhausted"
    """Never reaches the server: RESOURCE_EXHAUSTED."""
    LOST = "lost"
    """Applied; the answer is lost: UNAVAILABLE."""
    DELAYED = "delayed"
    """No answer until the caller has given up, then it reaches the server. A call that streams never does."""
    STRAY = "stray"
    """DEADLINE_EXCEEDED at once; it reaches the server some calls later. Unary calls only."""
    DUPLICATED = "duplicated"
    """Reaches the server twice; the second answer comes back. Unary calls only."""
    RESET_BEFORE = "reset before"
    """Never reaches the server: the client's connection is reset, with all that goes over it."""
    RESET_AFTER = "reset after"
    """Applied; then the client's connection is reset, with all that goes over it."""


class Call(msgspec.Struct, frozen=True):
    """One call of a client.

    Attributes:
        method: its name, like ``Commit``.
        number: the how-many-eth of its method, from 1.
        overall: the how-many-eth of all, from 1.
    """

    method: str
    number: int
    overall: int


Plan: TypeAlias = Callable[[Call], Fault | None]
"""Says what is to happen to a call. Asked once for each call, in their order."""


def nothing(_: Call) -> None:
    """No faults."""


def at_calls(faults: Mapping[tuple[str, int], Fault]) -> Plan:
    """Faults at given calls, by method and number from 1."""
    return lambda call: faults.get((call.method, call.number))


def randomly(seed: int, share: float, faults: Sequence[Fault], methods: Collection[str] = ("Commit",)) -> Plan:
    """Any of these faults, all equally likely, in this share of the calls of these methods."""
    chance = random.Random(seed)
    return lambda call: chance.choice(faults) if call.method in methods and chance.random() < share else None


class Injected(msgspec.Struct, frozen=True):
    """One fault that happened: to which call, and what the server answered each time the call reached it."""

    call: Call
    fault: Fault
    answers: tuple[str, ...] = ()


class Statistics(msgspec.Struct, frozen=True):
    """What went through a proxy.

    Attributes:
        calls: by method; those that went wrong included.
        sent_bytes: of the clients' messages, by method.
        received_bytes: of the messages that clients were given, by method.
        injected: the faults, in the order in which they were over.
    """

    calls: Mapping[str, int]
    sent_bytes: Mapping[str, int]
    received_bytes: Mapping[str, int]
    injected: Sequence[Injected]

    def faults(self) -> Counter[Fault]:
        """How often each fault happened."""
        return Counter(each.fault for each in self.injected)


class Account:
    """Counts, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._under_way = 0
        self.reset()

    def reset(self) -> None:
        """Count from here; the numbers of calls begin again, too."""
        with self._lock:
            self._overall = 0
            self._calls: Counter[str] = Counter()
            self._sent: Counter[str] = Counter()
            self._received: Counter[str] = Counter()
            self._injected: list[Injected] = []

    def begin(self, method: str, plan: Plan) -> tuple[Call, Fault | None]:
        """One more call, and what is to go wrong with it."""
        with self._lock:
            self._overall += 1
            self._calls[method] += 1
            call = Call(method, self._calls[method], self._overall)
            return call, plan(call)

    def sent(self, method: str, message: bytes) -> bytes:
        """A client's message."""
        with self._lock:
            self._sent[method] += len(message)
        return message

    def received(self, method: str, message: bytes) -> bytes:
        """A message to a client."""
        with self._lock:
            self._received[method] += len(message)
        return message

    def injected(self, injected: Injected) -> None:
        """A fault is over."""
        with self._lock:
            self._injected.append(injected)
            self._lock.notify_all()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Around a call, from its beginning until it has reached the server for the last time or never will."""
        with self._lock:
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                self._lock.notify_all()

    def wait_until_idle(self, seconds: float) -> None:
        """Until no call is under way; an error where that takes longer."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._under_way == 0, seconds), f"{self._under_way} calls do not end"

    def wait_for_faults(self, count: int, seconds: float) -> None:
        """Until so many faults are over; an error where that takes longer."""
        with self._lock:
            assert self._lock.wait_for(lambda: len(self._injected) >= count, seconds), f"no {count} faults came"

    def statistics(self) -> Statistics:
        """What was counted so far."""
        with self._lock:
            return Statistics(dict(self._calls), dict(self._sent), dict(self._received), tuple(self._injected))
