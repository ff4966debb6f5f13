"""Work of many commits whose answers are lost: each commit is looked after as that of any change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tai_state import EveryEvents, StateMachinePersister, StateStore
from tai_state.engines.api import ANYTHING, Delete
from tai_state.testing import AtCalls, Fault, FaultyEngine

from ..support.stores import GOVERNOR, METADATA, dump, edit, fix_identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tai_state.testing import Call

    from ..support.stores import Place, Places

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """What becomes of an answer does not depend on the event loop."""
    return "asyncio"


@dataclass
class NextCommit:
    """A fault at the how-many-eth commit from here."""

    number: int
    kind: Fault
    seen: int = 0
    planned: int = 1

    def fault(self, call: Call) -> Fault | None:
        """The fault of a call."""
        self.seen += call.verb == "commit"
        return self.kind if call.verb == "commit" and self.seen == self.number else None


class Work(NamedTuple):
    """Something of several commits.

    Attributes:
        name: for the test's id.
        prepare: writes what it starts from.
        run: does it.
    """

    name: str
    prepare: Callable[[StateStore, Path], Awaitable[None]]
    run: Callable[[StateStore, Path], Awaitable[Any]]


async def _history(store: StateStore, folder: Path) -> None:
    for version in range(5):
        await store.save_state(GOVERNOR, "alice", {"n": version}, METADATA, expected=version)
    await store.save_state(GOVERNOR, "bob", {}, METADATA, event_id="bob 1")


async def _exported(store: StateStore, folder: Path) -> None:
    await _history(store, folder)
    await StateMachinePersister(store).export_history(GOVERNOR, folder / "export.jsonl")
    for path in await dump(store.core.engine):
        await store.core.engine.commit([Delete(path, ANYTHING)])


async def _damaged(store: StateStore, folder: Path) -> None:
    await _history(store, folder)
    for state_id in ("alice", "bob"):
        await edit(store.core.engine, store.core.layout.stream(GOVERNOR, state_id).state, data={"n": 77})


async def _create_snapshot(store: StateStore, folder: Path) -> Any:
    return await store.create_snapshot(GOVERNOR, "alice")


async def _restore(store: StateStore, folder: Path) -> Any:
    return await StateMachinePersister(store).import_history(folder / "export.jsonl")


async def _recover(store: StateStore, folder: Path) -> Any:
    return await StateMachinePersister(store).recover()


async def _cleanup(store: StateStore, folder: Path) -> Any:
    return await StateMachinePersister(store).cleanup_old_data(GOVERNOR, keep=timedelta(hours=1))


WORKS = (
    Work("create_snapshot", _history, _create_snapshot),
    Work("restore", _exported, _restore),
    Work("recover", _damaged, _recover),
    Work("cleanup", _history, _cleanup),
)


async def _prepared(places: Places, work: Work, folder: Path) -> Place:
    place = places.new()
    async with place.engine() as engine:
        await fix_identity(engine)
    async with place.store(snapshots=EveryEvents(2, keep=3)) as store:
        await work.prepare(store, folder)
    place.clock.advance_us(7_200_000_000)
    return place


async def _result(place: Place, work: Work, folder: Path, plan: Any) -> tuple[Any, dict[str, Any], FaultyEngine]:
    faulty = FaultyEngine(place.engine(), AtCalls({}))
    async with place.store(faulty, snapshots=EveryEvents(2, keep=3)) as store:
        faulty.plan = plan
        done = await work.run(store, folder)
        await faulty.settle()
        return done, await dump(faulty), faulty  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DELAYED], ids=lambda each: each.value)
@pytest.mark.parametrize("work", WORKS, ids=lambda each: each.name)
async def test_a_lost_answer_is_looked_after(memory_places: Places, tmp_path: Path, work: Work, fault: Fault):
    """Whichever commit's answer is lost, the work is done, and reports and stores what it does without the fault."""
    done, stored, _ = await _result(
        await _prepared(memory_places, work, tmp_path), work, tmp_path, NextCommit(0, fault)
    )
    for number in count(1):
        place = await _prepared(memory_places, work, tmp_path)
        again, stored_again, faulty = await _result(place, work, tmp_path, NextCommit(number, fault))
        if not faulty.statistics().all_hit:
            break
        assert (again, stored_again) == (done, stored)
    assert number > 1
