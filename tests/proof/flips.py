"""Damage that reads do not serve: every field of every kind of document is changed past the library, and looked at.

After each flip every read of the public interface, and ``verify``, are compared with what they gave before. A flip is

- *refused*: a read raises an error of the library's own that names damage;
- *reported*: all reads give what they gave, and ``verify`` names the damage;
- *harmless*: all reads give what they gave, and a rule of :data:`HARMLESS` says why there is nothing to report.

Anything else is a failure.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any

import anyio
import apsw
from crew import PROCESSES, Crew, scratch
from flip_reads import LAST_READS, READS, outcomes
from flip_rules import harmless, may_differ, unseen_without_checksum
from flip_store import GOVERNOR, REDUCERS, clock_after, fill, store_over
from flipping import Flip, Ground, MemoryGround, SqliteGround, flips_of
from report import Section

from tai_state import Inconsistent, StateMachinePersister, StateStore, TaiStateError
from tai_state.engines.api import Engine
from tai_state.engines.memory import MemoryDocuments, MemoryEngine
from tai_state.engines.paging import take
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.streams.layout import Layout
from tai_state.testing import ManualClock

_START_US = 1_790_000_000_000_000
_AT_ONCE = 1_000
VERDICTS = ("refused", "reported", "harmless", "impossible", "failed")
_WARM_EVERY = 8
"""Each eighth flip is made under a store that is open, and has read everything."""


@dataclass
class Account:
    """What came of some flips: how many of a kind and field came to a verdict, and what is wrong."""

    verdicts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """Some flips of one store.

    Attributes:
        engine: ``sqlite`` or ``memory``.
        seed: of all that is random.
        flips: the numbers of the flips to make.
    """

    engine: str
    seed: int
    flips: range


class Flipper:
    """Makes flips on one ground, and judges what is read after each.

    Args:
        ground: where the documents are.
        engine: gives an engine over them, not yet opened.
        has_checksums: the engine compares what it reads with a checksum that the flips leave behind.
    """

    def __init__(self, ground: Ground, engine: Callable[[ManualClock], Engine], *, has_checksums: bool) -> None:
        self.ground = ground
        self._engine = engine
        self._has_checksums = has_checksums
        self._before: dict[str, Any] = {}

    @asynccontextmanager
    async def _store(self) -> AsyncIterator[StateStore]:
        clock = clock_after()
        async with store_over(self._engine(clock), clock, "later") as store:
            yield store

    async def begin(self) -> None:
        """Read everything as it is before any flip.

        Raises:
            AssertionError: the store is not consistent, or a read gives something else the second time.
        """
        self._before, found = await self._looked()
        self.ground.restore()
        assert found == [], found
        again, _ = await self._looked()
        self.ground.restore()
        assert self._differing(again) == {}, "a read gives something else the second time"

    async def trial(self, flip: Flip, *, is_warm: bool = False) -> tuple[str, list[str]]:
        """Make one flip, look, and undo it. Returns the verdict, and what is wrong with what was seen."""
        try:
            after, found = await self._looked(flip, is_warm=is_warm)
        except (apsw.ConstraintError, apsw.MismatchError):
            return "impossible", []
        except TaiStateError:  # from opening the store
            return "refused", []
        except Exception as error:  # noqa: BLE001 - any other error is what is looked for
            return "failed", [f"{flip}: opening raises {error!r}"]
        finally:
            self.ground.restore()
        return self._judged(flip, self._differing(after), found)

    def _judged(self, flip: Flip, differing: dict[str, Any], found: list[str]) -> tuple[str, list[str]]:
        refused = {name: each for name, each in differing.items() if isinstance(each, Inconsistent)}
        others = {name: each for name, each in differing.items() if name not in refused}
        ends = [] if flip.kind == "pragma" else [each for each in found if each.startswith(_ENDED)]  # of the whole file
        bad = [f"{flip}: verify ends with {each}" for each in ends]
        bad += [
            f"{flip}: {name} gives {_short(each)}"
            for name, each in others.items()
            if not self._may(flip, name, each, found)
        ]
        if bad:
            return "failed", bad
        if refused:
            return "refused", []
        if found:
            return "reported", []
        if harmless(flip) or (not self._has_checksums and unseen_without_checksum(flip)):
            return "harmless", []
        return "failed", [f"{flip}: unseen"]

    def _may(self, flip: Flip, read: str, after: Any, found: list[str]) -> bool:
        """Whether a read may give this after a flip."""
        if isinstance(after, Exception) and not isinstance(after, TaiStateError):
            return False
        if not self._has_checksums:
            return bool(found or unseen_without_checksum(flip))
        return may_differ(flip, read, self._before[read], after, is_reported=bool(found))

    async def _looked(self, flip: Flip | None = None, *, is_warm: bool = False) -> tuple[dict[str, Any], list[str]]:
        """What all reads give, and what ``verify`` finds; after a flip, if there is one."""
        if flip is not None and not is_warm:
            flip.make(self.ground)
        async with self._store() as store:
            if is_warm and flip is not None:
                await outcomes(store, READS)
                flip.make(self.ground)
            seen = await outcomes(store, READS)
            found = await _verified(store)
            seen |= await outcomes(store, LAST_READS)
            seen["a new change"] = await _changed(store)
        return seen, found

    def _differing(self, after: dict[str, Any]) -> dict[str, Any]:
        """The outcomes that are not what they were."""
        return {name: each for name, each in after.items() if not _same(each, self._before[name])}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Exception) or isinstance(other, Exception):
        return type(one) is type(other) and str(one) == str(other)
    return repr(one) == repr(other)


def _short(value: Any) -> str:
    if isinstance(value, Exception):
        value = (value, traceback.format_tb(value.__traceback__)[-1])
    return repr(value)[:300]


_ENDED = "no report, but"


async def _verified(store: StateStore) -> list[str]:
    """What ``verify`` reports; one bad document must not keep it from reporting on the others."""
    try:
        report = await StateMachinePersister(store, REDUCERS).validate_consistency()
    except TaiStateError as error:
        return [f"{_ENDED} {error!r}"]
    return [f"{each.path} {each.kind}: {each.message}" for each in report.findings]


async def _changed(store: StateStore) -> Any:
    """A change of a state of its own, and its reading: data, version, and whether its revision is new."""
    try:
        first = await store.save_state(GOVERNOR, "zoe", {"n": 1, "of": "zoe"}, expected=0)
        second = await store.save_state(GOVERNOR, "zoe", {"n": 2, "of": "zoe"}, expected=1)
        state = await store.get_state(GOVERNOR, "zoe")
    except TaiStateError as error:
        return error
    return first.version, second.version, state.version, state.data


def in_turn(flips: list[Flip], random: Random) -> list[Flip]:
    """The flips in an order in which the first few are of all kinds and fields, and so are the next."""
    groups: dict[tuple[str, str], list[Flip]] = {}
    for flip in random.sample(flips, len(flips)):
        groups.setdefault((flip.kind, flip.field), []).append(flip)
    rounds = zip_longest(*(groups[each] for each in sorted(groups)))
    return [flip for each in rounds for flip in each if flip is not None]


async def flipped(
    task: Task, *, only: Callable[[Flip], bool] | None = None, failures_max: int | None = None
) -> Account:
    """Make the flips of a task.

    Args:
        task: which flips.
        only: chooses among all flips, before they are numbered.
        failures_max: stop when there are so many.
    """
    account = Account()
    with scratch() as folder:
        async with flipper_over(task.engine, folder) as flipper:
            random = Random(task.seed)
            flips = in_turn(list(flips_of(flipper.ground, random)), random)
            chosen = flips if only is None else [each for each in flips if only(each)]
            for number in task.flips:
                if number >= len(chosen) or len(account.failures) == failures_max:
                    break
                flip = chosen[number]
                is_warm = number % _WARM_EVERY == 0 and flip.kind != "store"  # which is read by opening alone
                verdict, failures = await flipper.trial(flip, is_warm=is_warm)
                account.verdicts[(flip.kind, flip.field, verdict)] += 1
                account.failures += failures[:1] if failures_max else failures[:3]
    return account


def _flipped(task: Task) -> Account:
    logging.getLogger("tai_state").setLevel(logging.CRITICAL)
    return anyio.run(flipped, task)


def prove(crew: Crew, *, engine: str, seed: int, count: int, minimum: int) -> Section:
    """Make flips, and judge each.

    Args:
        crew: does it.
        engine: ``sqlite``, whose checksums the flips leave behind, or ``memory``, which has none.
        seed: of all that is random.
        count: how many flips to make, at most all that there are.
        minimum: flips below which too little was done.
    """
    section = Section(f"flips {engine}", minimum)
    started = time.monotonic()
    size = min(_AT_ONCE, -(-count // PROCESSES))
    tasks = [Task(engine, seed, range(first, min(first + size, count))) for first in range(0, count, size)]
    verdicts: Counter[tuple[str, str, str]] = Counter()
    for account in crew.map(_flipped, tasks):
        verdicts += account.verdicts
        section.failures += account.failures
    for (kind, name, verdict), number in verdicts.items():
        if verdict != "impossible":
            section.hit[f"{kind}: {name}"] += number
            section.runs += number
            section.refused += number if verdict == "refused" else 0
    section.planned = Counter(dict.fromkeys(section.hit, 1))
    section.operations = section.runs * (len(READS) + len(LAST_READS))
    section.details = _coverage(verdicts)
    section.seconds = time.monotonic() - started
    return section


def _coverage(verdicts: Counter[tuple[str, str, str]]) -> list[str]:
    """What was flipped, by kind and field, and what came of it."""
    places = sorted({(kind, name) for kind, name, _ in verdicts})
    return [
        f"{kind}: {name}: "
        + ", ".join(f"{verdicts[kind, name, each]} {each}" for each in VERDICTS if verdicts[kind, name, each])
        for kind, name in places
    ]


@asynccontextmanager
async def flipper_over(engine: str, folder: Path) -> AsyncIterator[Flipper]:
    """A flipper over a filled store."""
    clock = ManualClock(_START_US)
    if engine == "memory":
        documents = MemoryDocuments()
        async with MemoryEngine(clock, documents) as filled:
            await fill(filled, clock, folder)
        flipper = Flipper(MemoryGround(documents), lambda it: MemoryEngine(it, documents), has_checksums=False)
        await flipper.begin()
        yield flipper
        return
    file = str(folder / "store.db")
    async with SqliteEngine(file, clock) as filled:
        await fill(filled, clock, folder)
        await take(filled.changed(Layout().events(GOVERNOR)), None)  # makes an index, and so changes the schema
    ground = SqliteGround(file)
    try:
        flipper = Flipper(ground, partial(SqliteEngine, file), has_checksums=True)
        await flipper.begin()
        yield flipper
    finally:
        ground.close()
