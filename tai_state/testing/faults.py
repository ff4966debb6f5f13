"""Planned faults: an engine that fails on purpose, to test how a service reacts.

Wrap any engine, say which call fails and how, and run the service as usual::

    faulty = FaultyEngine(MemoryEngine(clock), AtCalls({("commit", 3): Fault.LOST_AFTER}))
    async with open_store(faulty, timeout_seconds=1.0) as store:
        ...
    assert faulty.statistics().all_hit

Whatever the plan, this should hold: no acknowledged change is missing, no change is there twice, and no change that
was applied is reported as failed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Literal, Protocol, Self, TypeAlias, cast

import anyio
import anyio.lowlevel
import msgspec

from tai_state.engines.api import (
    At,
    Capabilities,
    Committed,
    Document,
    DocumentChange,
    Engine,
    Moment,
    Put,
    Reading,
    Scan,
    Write,
)
from tai_state.engines.ordering import CommitOrdered
from tai_state.engines.paging import Paged
from tai_state.errors import CommitRefused, CorruptDocument, StoreTimeout, StoreUnavailable, TaiStateError

Verb: TypeAlias = Literal["read", "scan", "commit", "watch", "any"]
"""A verb of the engine; ``any`` counts the calls of all verbs together."""

_scope: ContextVar[anyio.CancelScope | None] = ContextVar("tai_state_faulty_scope", default=None)


class Fault(Enum):
    """What can go wrong with one call of an engine.

    Only ``commit`` applies anything. For the other verbs, the two kinds of lost answers differ only for a scan: with
    ``LOST_AFTER``, it has yielded its first document before the loss.
    """

    UNAVAILABLE = "unavailable"
    """The call raises ``StoreUnavailable``; it is certain that nothing was applied."""
    REFUSED = "refused"
    """The commit raises ``CommitRefused`` although every requirement held, as if a document had been written again
    with the same content. Only for commits that require a revision."""
    LOST_BEFORE = "lost before"
    """The call never arrives. It raises ``StoreTimeout``; for a commit, with ``unknown``."""
    LOST_AFTER = "lost after"
    """The call is applied, but its answer is lost. It raises ``StoreTimeout``; for a commit, with ``unknown``."""
    DELAYED = "delayed"
    """The commit raises ``StoreTimeout`` with ``unknown`` now, and is applied later if its requirements hold then.
    Only for commits."""
    DUPLICATED = "duplicated"
    """The commit arrives twice. The caller sees the second answer, which is mostly ``CommitRefused``. Only for
    commits."""
    CANCELLED_BEFORE = "cancelled before"
    """The calling scope is cancelled before anything is sent; see :meth:`FaultyEngine.cancellable`."""
    CANCELLED_AFTER = "cancelled after"
    """The calling scope is cancelled when the call is done, before the answer is seen."""


_COMMIT_AT_REVISION = frozenset(Fault)
_COMMIT = _COMMIT_AT_REVISION - {Fault.REFUSED}
_ANY_CALL = _COMMIT - {Fault.DELAYED, Fault.DUPLICATED}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an engine.

    Attributes:
        verb: one of the four verbs.
        number: its 1-based position among calls of this verb.
        overall: its 1-based position among all calls.
    """

    verb: Verb
    number: int
    overall: int


class FaultPlan(Protocol):
    """Decides what goes wrong, and when."""

    @property
    def planned(self) -> int:
        """How many faults are planned; for a plan without an end, how many it has planned so far."""
        ...

    def fault(self, call: Call) -> Fault | None:
        """The fault for this call, if any. Called once for each call, in their order."""
        ...


class AtCalls:
    """A plan of faults at given calls.

    Args:
        faults: the faults by verb and 1-based number, like ``{("commit", 3): Fault.LOST_AFTER}``; ``("any", 5)`` is the
            fifth call of any verb.
    """

    def __init__(self, faults: Mapping[tuple[Verb, int], Fault]) -> None:
        self._faults = dict(faults)

    @property
    def planned(self) -> int:
        """How many faults are planned."""
        return len(self._faults)

    def fault(self, call: Call) -> Fault | None:
        """See :class:`FaultPlan`."""
        return self._faults.get((call.verb, call.number)) or self._faults.get(("any", call.overall))


class Randomly:
    """A plan of random faults. The same seed and the same order of calls give the same faults.

    Args:
        seed: print it, so that a failure can be repeated.
        share: the share of calls that fail, from 0 to 1.
        faults: the faults to choose from, all equally likely.
        verbs: only calls of these verbs fail.
    """

    def __init__(self, seed: int, share: float, faults: Sequence[Fault], verbs: Sequence[Verb] = ("commit",)) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._share = share
        self._faults = tuple(faults)
        self._verbs = frozenset(verbs)
        self._planned = 0

    @property
    def planned(self) -> int:
        """How many faults were planned so far."""
        return self._planned

    def fault(self, call: Call) -> Fault | None:
        """See :class:`FaultPlan`."""
        if not self._verbs & {call.verb, "any"} or self._random.random() >= self._share:
            return None
        self._planned += 1
        return self._random.choice(self._faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultStatistics:
    """What a faulty engine did.

    Attributes:
        calls: how many calls were made, of all verbs.
        planned: how many faults are in the plan.
        hit: how many faults happened, by kind. A fault that is not possible for its call never happens.
        landed: how many delayed commits were applied in the end.
        dead: how many delayed commits were not, because their requirements no longer held.
    """

    calls: int
    planned: int
    hit: Mapping[Fault, int]
    landed: int
    dead: int

    @property
    def all_hit(self) -> bool:
        """Whether every planned fault has happened. A test whose faults do not happen shows nothing."""
        return sum(self.hit.values()) == self.planned


class FaultyEngine:
    """An engine whose calls fail as planned; see :class:`~tai_state.engines.api.Engine` for the verbs.

    It opens and closes an inner engine, and passes all calls on to it.

    Args:
        engine: the inner engine.
        plan: what goes wrong, and when; it may be replaced at any time.
        delay_calls: how many calls later a delayed commit arrives; it arrives right before that call.
    """

    def __init__(self, engine: Engine, plan: FaultPlan, *, delay_calls: int = 1) -> None:
        self.plan = plan
        self._engine = engine
        self._delay_calls = delay_calls
        self._numbers: Counter[Verb] = Counter()
        self._overall = 0
        self._hit: Counter[Fault] = Counter()
        self._delayed: list[tuple[int, Sequence[Write]]] = []
        self._landed = 0
        self._dead = 0

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the inner engine."""
        return self._engine.capabilities

    def __str__(self) -> str:
        """The inner engine's."""
        return str(self._engine)

    def __repr__(self) -> str:
        hit = f"{sum(self._hit.values())} of {self.plan.planned} faults hit"
        return f"<{type(self).__name__} around {self._engine!r}, {self._overall} calls, {hit}>"

    async def __aenter__(self) -> Self:
        await self._engine.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._engine.__aexit__(*exc)

    def statistics(self) -> FaultStatistics:
        """What happened so far."""
        return FaultStatistics(
            calls=self._overall,
            planned=self.plan.planned,
            hit=dict(self._hit),
            landed=self._landed,
            dead=self._dead,
        )

    @contextmanager
    def cancellable(self) -> Generator[anyio.CancelScope]:
        """The scope that is cancelled by planned cancellations of calls in this block, or in tasks started in it."""
        with anyio.CancelScope() as scope:
            token = _scope.set(scope)
            try:
                yield scope
            finally:
                _scope.reset(token)

    async def settle(self) -> None:
        """Let every delayed commit arrive now. Call it at the end of a test, before the final check."""
        await self._deliver(everything=True)

    async def read(self, paths: Sequence[str]) -> Reading:  # noqa: D102
        return await self._read(self._engine, paths)

    async def _read(self, source: Moment, paths: Sequence[str]) -> Reading:
        fault = await self._begin("read")
        await self._fail_before("read", fault)
        reading = await source.read(paths)
        await self._fail_after("read", fault)
        return reading

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        return self._with_faults(self._engine.scan(scan))

    @asynccontextmanager
    async def moment(self) -> AsyncGenerator[Moment, None]:
        """A moment of the inner engine; the plan sees what is read from it like any other read or scan."""
        async with self._engine.moment() as inner:
            yield _FaultyMoment(partial(self._read, inner), lambda scan: self._with_faults(inner.scan(scan)))

    def changed(self, collection: str, after: int = 0, limit: int | None = None) -> Paged[Document]:
        """See :class:`~tai_state.engines.ordering.CommitOrdered`, if the inner engine is one. The plan sees a scan."""
        return self._with_faults(cast("CommitOrdered", self._engine).changed(collection, after, limit))

    def _with_faults(self, documents: Paged[Document]) -> Paged[Document]:
        is_begun = False
        fault: Fault | None = None

        async def fetch() -> Sequence[Document] | None:
            nonlocal is_begun, fault
            if is_begun:
                await self._fail_after("scan", fault)
            else:
                is_begun = True
                fault = await self._begin("scan")
                await self._fail_before("scan", fault)
            async for document in documents:
                return [document]
            await self._fail_after("scan", fault)
            return None

        return Paged(fetch)

    async def commit(self, writes: Sequence[Write]) -> Committed:  # noqa: D102
        requiring = [write.path for write in writes if isinstance(write.require, At)]
        fault = await self._begin("commit", _COMMIT_AT_REVISION if requiring else _COMMIT)
        if fault is Fault.DELAYED:
            self._delayed.append((self._overall + self._delay_calls, _copy_of(writes)))
        elif fault is Fault.REFUSED:
            raise CommitRefused(requiring[0])
        await self._fail_before("commit", fault)
        if fault is None:
            return await self._engine.commit(writes)
        with anyio.CancelScope(shield=True), suppress(TaiStateError):
            await self._engine.commit(writes)
        await self._fail_after("commit", fault)
        return await self._engine.commit(writes)

    @asynccontextmanager
    async def watch(self, *targets: str) -> AsyncGenerator[AsyncIterator[DocumentChange]]:  # noqa: D102
        fault = await self._begin("watch")
        await self._fail_before("watch", fault)
        async with self._engine.watch(*targets) as changes:
            await self._fail_after("watch", fault)
            yield changes

    async def self_check(self) -> Sequence[CorruptDocument]:
        """The findings of the inner engine."""
        return await self._engine.self_check()

    async def missing(self, collection: str) -> Sequence[str]:
        """As the inner engine says."""
        return await self._engine.missing(collection)

    async def _begin(self, verb: Verb, possible: AbstractSet[Fault] = _ANY_CALL) -> Fault | None:
        """Count a call, and deliver the commits that are due. Returns the planned fault, if it is possible here."""
        self._numbers[verb] += 1
        self._overall += 1
        call = Call(verb, self._numbers[verb], self._overall)
        fault = self.plan.fault(call)
        await self._deliver()
        if fault is None or fault not in possible:
            return None
        self._hit[fault] += 1
        return fault

    async def _deliver(self, *, everything: bool = False) -> None:
        due = [each for each in self._delayed if everything or each[0] <= self._overall]
        self._delayed = [each for each in self._delayed if each not in due]
        # A delayed message arrives even if the task whose call delivers it is cancelled.
        with anyio.CancelScope(shield=True):
            for _, writes in due:
                try:
                    await self._engine.commit(writes)
                except TaiStateError:
                    self._dead += 1
                else:
                    self._landed += 1

    async def _fail_before(self, verb: Verb, fault: Fault | None) -> None:
        unknown = verb == "commit"
        if fault is Fault.UNAVAILABLE:
            raise StoreUnavailable(verb, "FAULT", "a planned fault")
        if fault in (Fault.LOST_BEFORE, Fault.DELAYED):
            raise StoreTimeout(verb, "FAULT", "a planned fault", unknown)
        if fault is Fault.CANCELLED_BEFORE:
            await _cancel()

    async def _fail_after(self, verb: Verb, fault: Fault | None) -> None:
        if fault is Fault.LOST_AFTER:
            raise StoreTimeout(verb, "FAULT", "a planned fault", verb == "commit")
        if fault is Fault.CANCELLED_AFTER:
            await _cancel()


@dataclass(frozen=True, slots=True)
class _FaultyMoment:
    """A moment whose verbs fail as planned."""

    reading: Callable[[Sequence[str]], Awaitable[Reading]]
    scanning: Callable[[Scan], Paged[Document]]

    async def read(self, paths: Sequence[str]) -> Reading:
        return await self.reading(paths)

    def scan(self, scan: Scan) -> Paged[Document]:
        return self.scanning(scan)


async def _cancel() -> None:
    scope = _scope.get()
    if scope is None:
        raise RuntimeError("a planned cancellation needs `with engine.cancellable():` around the call")
    scope.cancel()
    await anyio.lowlevel.checkpoint()


def _copy_of(writes: Sequence[Write]) -> list[Write]:
    """A copy of the writes: the caller may change their fields once the call has returned."""
    return [
        Put(each.path, msgspec.json.decode(msgspec.json.encode(each.fields)), each.require)
        if isinstance(each, Put)
        else each
        for each in writes
    ]
