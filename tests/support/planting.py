"""What can be wrong with a store, each planted in one that has a little of everything: see ``proof/flip_store.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import apsw
import msgspec

from tai_state import ANY, ChangeMetadata, open_store
from tai_state.engines.api import Delete, Put
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.streams.layout import Layout
from tai_state.streams.records import EVENT, EventRecord
from tai_state.streams.settings import SystemClock
from tai_state.values.digests import state_hash

from .sqlite import flip_a_bit_in_an_index
from .stores import fields_at

BANK, SHOP, CLUB = (f"governors/{each}" for each in ("bank", "shop", "club"))
ALICE = f"{BANK}/states/alice"
NOTE = "meta/store/restores/shop"
FAR_AHEAD = "2999-01-01T00:00:00.000000Z"


class Behind:
    """Changes documents behind the store's back.

    Args:
        file: the file of the store.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    @asynccontextmanager
    async def _engine(self) -> AsyncIterator[SqliteEngine]:
        async with SqliteEngine(str(self.file), SystemClock()) as engine:
            yield engine

    async def edit(self, path: str, **changes: Any) -> None:
        """Give fields of a document other values, and the row the checksum that fits it; None removes a field."""
        async with self._engine() as engine:
            fields = {**await fields_at(engine, path), **changes}
            await engine.commit([Put(path, {name: each for name, each in fields.items() if each is not None})])

    async def put(self, path: str, fields: dict[str, Any] | None = None) -> None:
        """Put a document somewhere; without fields, one that is no document of this library."""
        async with self._engine() as engine:
            await engine.commit([Put(path, {} if fields is None else fields)])

    async def copy(self, path: str, to: str, **changes: Any) -> None:
        """Put a document a second time somewhere else."""
        async with self._engine() as engine:
            await engine.commit([Put(to, {**await fields_at(engine, path), **changes})])

    async def remove(self, *paths: str) -> None:
        """Remove documents."""
        async with self._engine() as engine:
            await engine.commit([Delete(path) for path in paths])

    async def sign(self, path: str, governor_id: str = "bank", **changes: Any) -> None:
        """Edit an event, and give it the digest that fits."""
        async with self._engine() as engine:
            fields = {**await fields_at(engine, path), **changes}
            record = msgspec.convert(fields, EventRecord)
            assert EVENT.struct is EventRecord
            await engine.commit([Put(path, {**fields, "digest": record.computed_digest(governor_id)})])

    def spoil(self, path: str) -> None:
        """Damage a row, so that its checksum does not fit."""
        self.run("UPDATE documents SET fields = replace(fields, '\"', '!') WHERE path = ?", path)

    def run(self, sql: str, *values: Any) -> None:
        """Change one row past the engine."""
        with closing(apsw.Connection(str(self.file))) as connection:
            connection.execute(sql, values)
            assert connection.changes() == 1


Planting: TypeAlias = Callable[[Behind], Awaitable[None]]


class Wrong(NamedTuple):
    """Something that is wrong.

    Attributes:
        kind: of the finding.
        path: of the document that is named.
        plant: brings it about.
        stays: a part of the message that says why the finding stays; empty: it can be made good.
    """

    kind: str
    path: str
    plant: Planting
    stays: str = ""


def _event(state: str, version: int, governor: str = BANK) -> str:
    return f"{governor}/events/{state}~{version:012d}"


def _kept(state: str, version: int, governor: str = BANK) -> str:
    return f"{governor}/snapshots/{state}~{version:012d}"


def _edited(kind: str, path: str, *, stays: str = "", **changes: Any) -> Wrong:
    return Wrong(kind, path, lambda it: it.edit(path, **changes), stays)


def _put(kind: str, path: str, fields: dict[str, Any] | None = None) -> Wrong:
    return Wrong(kind, path, lambda it: it.put(path, fields))


def _copied(kind: str, path: str, to: str, **changes: Any) -> Wrong:
    return Wrong(kind, to, lambda it: it.copy(path, to, **changes))


def _removed(kind: str, path: str, *others: str) -> Wrong:
    return Wrong(kind, path, lambda it: it.remove(path, *others))


def _spoilt(kind: str, path: str) -> Wrong:
    async def plant(behind: Behind) -> None:
        behind.spoil(path)

    return Wrong(kind, path, plant)


def _signed(kind: str, path: str, *, governor_id: str = "bank", stays: str = "", **changes: Any) -> Wrong:
    return Wrong(kind, path, lambda it: it.sign(path, governor_id, **changes), stays)


async def _hide(behind: Behind) -> None:
    path = _event("alice", 2)
    behind.run("UPDATE documents SET timestamp = NULL WHERE path = ?", path)


async def _damage_an_index(behind: Behind) -> None:
    flip_a_bit_in_an_index(behind.file)


async def _lose_the_export(behind: Behind) -> None:
    await behind.edit(NOTE, finished=None)
    (behind.file.parent / "shop.jsonl").unlink()


async def _twice(behind: Behind) -> None:
    """As by a writer of before there were markers."""
    await behind.remove(f"{BANK}/ids/bob-1")
    async with open_store(f"sqlite:///{behind.file}") as store:
        await store.save_state("bank", "bob", {"n": 1}, ChangeMetadata("a", "b"), expected=ANY, event_id="bob-1")


async def _list_an_old_one(behind: Behind) -> None:
    await behind.copy(_kept("dave", 4), _kept("dave", 1))
    await behind.edit(f"{BANK}/states/dave", kept=[1, 2, 4])


async def _lose_the_list(behind: Behind) -> None:
    await behind.copy(_kept("dave", 4), _kept("dave", 1))
    await behind.remove(f"{BANK}/states/dave")


_LAYOUT = Layout()
TIME_OUT = _LAYOUT.stream("pumps", "jack").timer("2999-01-01T00:00:00.000000Z")
STRAY_TIME_OUT = _LAYOUT.stream("bank", "alice").timer("2999-01-01T00:00:00.000000Z")
OTHER_TEXT = '{"n":77}'

WRONG: dict[str, Wrong] = {
    "store edited": _put("store", "meta/store"),
    "store damaged": _spoilt("store", "meta/store"),
    "store removed": _removed("store", "meta/store"),
    "governor edited": _put("governor", BANK),
    "governor damaged": _spoilt("governor", BANK),
    "governor removed": _removed("governor", BANK),
    "governor of no name": _put("corrupt", "governors/%FF"),
    "documents of a governor of no name": Wrong(
        "corrupt", "governors/%FF", lambda it: it.copy(ALICE, "governors/%FF/states/alice")
    ),
    "restore unfinished": _edited("restore", NOTE, finished=None),
    "restore unfinished and its file lost": Wrong("restore", NOTE, _lose_the_export),
    "restore damaged": _spoilt("restore", NOTE),
    "restore of no name": _put("corrupt", "meta/store/restores/%FF", {"export_id": "x", "finished": True}),
    "unfinished restore of no name": _put("corrupt", "meta/store/restores/%FF", {"export_id": "x"}),
    "event edited": _put("corrupt", _event("alice", 2)),
    "event damaged": _spoilt("corrupt", _event("alice", 2)),
    "event of no name": _copied("corrupt", _event("alice", 2), f"{BANK}/events/x"),
    "event of no state": _copied("corrupt", _event("alice", 2), f"{BANK}/events/%FF~000000000001"),
    "event of a time": _edited("corrupt", _event("alice", 2), timestamp="soon"),
    "event elsewhere": _edited("chain", _event("alice", 2), version=3),
    "event's action": _edited("digest", _event("alice", 2), action="other"),
    "event's state": _edited("state_hash", _event("alice", 2), to_state=OTHER_TEXT),
    "event after another": _signed("chain", _event("alice", 2), previous="0" * 64),
    "event at the beginning": _signed("chain", _event("alice", 1), previous="1" * 64),
    "event's as_of": _edited("chain", _event("alice", 2), as_of=FAR_AHEAD),
    "event's content": _edited("marker", _event("alice", 2), content="0" * 64),
    "event id twice": Wrong("marker", _event("bob", 3), _twice, "so does this finding"),
    "event's outcome": _signed("fold", _event("carol", 3), state_hash=state_hash(OTHER_TEXT)),
    "event missing": _removed("gap", _event("alice", 2)),
    "first event missing": _removed("gap", _event("alice", 1)),
    "last event missing": _removed("gap", _event("hal", 1)),
    "all events missing": _removed("gap", _event("alice", 4), *(_event("alice", n) for n in range(1, 4))),
    "last events missing": _removed("gap", _event("alice", 3), _event("alice", 4)),
    "event far ahead": _signed("time", _event("hal", 1), timestamp=FAR_AHEAD, as_of=FAR_AHEAD, stays="until then"),
    "state edited": _put("corrupt", ALICE),
    "state damaged": _spoilt("corrupt", ALICE),
    "state removed": _removed("state", ALICE),
    "state's data": _edited("state", ALICE, data={"n": 77}),
    "state set back": _edited("state", ALICE, version=2),
    "state set ahead": _edited("state", ALICE, version=9),
    "state's list in disorder": _edited("state", ALICE, kept=[4, 2]),
    "state's list too short": _edited("state", ALICE, kept=[]),
    "state's floor": _edited("state", ALICE, floor=9),
    "state's other floor": Wrong("gap", _event("dave", 1), lambda it: it.edit(f"{BANK}/states/dave", floor=1)),
    "state's as_of": _edited("state", ALICE, as_of="2001-01-01T00:00:00.000000Z"),
    "state's count": _edited("state", ALICE, unkept_bytes=7),
    "state's clock": _edited("state", ALICE, causality={"x": 7}),
    "state deleted": _edited("state", ALICE, deleted=True),
    "state of no name": _copied("corrupt", ALICE, f"{BANK}/states/%FF"),
    "state of no stream": Wrong("gap", _event("zoe", 4), lambda it: it.copy(ALICE, f"{BANK}/states/zoe")),
    "snapshot edited": _put("corrupt", _kept("alice", 2)),
    "snapshot damaged": _spoilt("corrupt", _kept("alice", 2)),
    "snapshot removed": _removed("snapshot", _kept("alice", 2)),
    "newest snapshot removed": _removed("snapshot", _kept("alice", 4)),
    "snapshot's state": _edited("snapshot", _kept("alice", 2), state=OTHER_TEXT),
    "stray snapshot": _copied("snapshot", _kept("alice", 2), _kept("alice", 1)),
    "stray snapshot that is damaged": _put("snapshot", _kept("alice", 1)),
    "stray snapshot of a later version": _copied("snapshot", _kept("alice", 2), _kept("alice", 9)),
    "stray snapshot of an earlier version": _copied("snapshot", _kept("dave", 4), _kept("dave", 1)),
    "stray snapshot of no state": _copied("snapshot", _kept("alice", 2), _kept("zoe", 2)),
    "snapshot of no name": _copied("snapshot", _kept("alice", 2), f"{BANK}/snapshots/x"),
    "snapshot listed of a later version": Wrong(
        "snapshot", _kept("alice", 9), lambda it: it.edit(ALICE, kept=[2, 4, 9])
    ),
    "snapshot listed of a version that was cleaned up": Wrong("snapshot", _kept("dave", 1), _list_an_old_one),
    "snapshot of a cleaned-up version of a lost state": Wrong("snapshot", _kept("dave", 1), _lose_the_list),
    "marker removed": _removed("marker", f"{BANK}/ids/alice-1"),
    "marker edited": _put("corrupt", f"{BANK}/ids/alice-1"),
    "marker damaged": _spoilt("corrupt", f"{BANK}/ids/alice-1"),
    "marker of an event that was cleaned up": _put("corrupt", f"{BANK}/ids/dave-0"),
    "marker of no state": _edited("corrupt", f"{BANK}/ids/alice-1", state_id=""),
    "stray marker of no state": _copied("corrupt", f"{BANK}/ids/alice-1", f"{BANK}/ids/stray", state_id=""),
    "marker of another event": _edited("marker", f"{BANK}/ids/alice-1", version=2),
    "marker of no event": _copied("marker", f"{BANK}/ids/alice-1", f"{BANK}/ids/stray", version=9),
    "second marker of an event": _copied("marker", f"{BANK}/ids/alice-1", f"{BANK}/ids/stray"),
    "marker's content": _edited("marker", f"{BANK}/ids/alice-1", content="0" * 64),
    "marker of no name": _copied("corrupt", f"{BANK}/ids/alice-1", f"{BANK}/ids/%FF"),
    "record removed": _removed("retired", f"{CLUB}/retired/iris"),
    "record edited": _put("retired", f"{CLUB}/retired/iris"),
    "record damaged": _spoilt("retired", f"{CLUB}/retired/iris"),
    "record of no name": _copied("retired", f"{CLUB}/retired/iris", f"{CLUB}/retired/%FF"),
    "record of another state": _copied("retired", f"{CLUB}/retired/iris", f"{CLUB}/retired/zoe"),
    "note of a cleanup removed": _removed("cleaned", f"{BANK}/cleaned/dave"),
    "note of a cleanup edited": _edited("cleaned", f"{BANK}/cleaned/dave", state_id="alice"),
    "note of a cleanup damaged": _spoilt("cleaned", f"{BANK}/cleaned/dave"),
    "note of a cleanup of no name": _copied("cleaned", f"{BANK}/cleaned/dave", f"{BANK}/cleaned/%FF"),
    "note of a cleanup of nobody": _copied("cleaned", f"{BANK}/cleaned/dave", f"{BANK}/cleaned/zoe", state_id="zoe"),
    "time-out removed": _removed("timer", TIME_OUT),
    "time-out edited": _put("corrupt", TIME_OUT),
    "time-out damaged": _spoilt("corrupt", TIME_OUT),
    "time-out of another machine": _edited("corrupt", TIME_OUT, state_id="jill"),
    "time-out of no machine": _edited("corrupt", TIME_OUT, state_id=""),
    "time-out of no name": _copied("corrupt", TIME_OUT, "timers/soon"),
    "time-out of a machine that has none": _put("timer", STRAY_TIME_OUT, {"governor_id": "bank", "state_id": "alice"}),
    "index damaged": Wrong("corrupt", "tai-state.db", _damage_an_index),
    "column of times": Wrong("corrupt", _event("alice", 2), _hide),
}
"""By what is wrong."""
