"""Every error class is raised from a real path: by what a user does, through the library's own code."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

import tai_state
from tai_state import (
    ANY,
    EXISTS,
    NO_STATE,
    Causal,
    ChangeMetadata,
    EventualConsistency,
    EveryEvents,
    NewEvent,
    StateMachinePersister,
    StateStore,
    TaiStateError,
    Transaction,
    errors,
    open_store,
    retire_store,
)
from tai_state.cli.locking import taken_away
from tai_state.cli.syncing import check_named
from tai_state.engines.api import PRESENT, Check, Committed, Delete, Write
from tai_state.engines.firestore.engine import EMULATOR
from tai_state.engines.memory import MemoryEngine
from tai_state.history.csvfile import Columns
from tai_state.machines import (
    Command,
    ComponentState,
    Invariant,
    ProofObligation,
    Severity,
    allow,
    define,
    described,
)
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock
from tai_state.testing.emulator import running_emulator

from ..support.locks import Time, managed
from ..support.pages import DOCS
from ..support.stores import AroundEngine, edit

pytestmark = pytest.mark.anyio

PACKAGE = Path(tai_state.__file__).parent
CLASSES = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, TaiStateError)}
FAMILIES = {
    *(errors.TaiStateError, errors.NotFound, errors.Rejected),
    *(errors.Conflict, errors.TransitionRefused, errors.Inconsistent, errors.Unavailable),
}
"""The classes that are only caught: each error that is raised is a member of one of them."""

WHO = ChangeMetadata("somebody", "to see it fail")
BILL = "governors/g/states/bill"
REDUCERS = {"add": lambda state, event: {"n": (state or {"n": 0})["n"] + event.payload}}

Case = Callable[[Path], Awaitable[Any]]
CASES: dict[type[TaiStateError], Case] = {}


def raises(error: type[TaiStateError]) -> Callable[[Case], Case]:
    """Say which error a case ends with; it is given an empty folder."""

    def register(case: Case) -> Case:
        CASES[error] = case
        return case

    return register


@asynccontextmanager
async def _with_bill(**options: Any) -> AsyncGenerator[StateStore, None]:
    """An open store in memory, with one state."""
    async with open_store("memory://", metadata=WHO, **options) as store:
        await store.save_state("g", "bill", {"n": 1})
        yield store


@asynccontextmanager
async def _two_stores() -> AsyncGenerator[tuple[StateStore, StateStore], None]:
    """Two stores over the same documents, with one state."""
    engine = MemoryEngine(ManualClock())
    async with open_store(engine, metadata=WHO) as one, open_store(engine.beside(), metadata=WHO) as other:
        await one.save_state("g", "bill", {"n": 1})
        yield one, other


@raises(errors.StateNotFound)
async def _state_not_found(_: Path) -> None:
    async with _with_bill() as store:
        await store.get_state("g", "nobody")


@raises(errors.GovernorNotFound)
async def _governor_not_found(_: Path) -> None:
    async with _with_bill() as store:
        await store.count_states("nowhere")


@raises(errors.StoreNotFound)
async def _store_not_found(folder: Path) -> None:
    async with open_store(f"sqlite:///{folder}/store.db", create=False):
        pass


@raises(errors.LockNotFound)
async def _lock_not_found(_: Path) -> None:
    async with _with_bill() as store:
        await taken_away(store, "nightly")


@raises(errors.StoreNotNamed)
async def _store_not_named(_: Path) -> None:
    async with _with_bill() as store:
        await check_named(store, "device-7", None, await retire_store(store, "device-7", dry_run=True))


@raises(errors.EmulatorNotFound)
async def _emulator_not_found(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as environment:
        for name in ("PATH", "HOME", "CLOUDSDK_ROOT_DIR"):
            environment.setenv(name, str(folder))
        environment.delenv(EMULATOR, raising=False)
        with running_emulator():
            pass


@raises(errors.InvalidId)
async def _invalid_id(_: Path) -> None:
    async with _with_bill() as store:
        await store.get_state("g", "")


@raises(errors.InvalidData)
async def _invalid_data(_: Path) -> None:
    async with _with_bill() as store:
        await store.save_state("g", "other", {"when": datetime.now(UTC)})


@raises(errors.DocumentTooLarge)
async def _document_too_large(_: Path) -> None:
    async with _with_bill() as store:
        await store.save_state("g", "other", {"text": "x" * 2**21})


@raises(errors.CommitTooLarge)
async def _commit_too_large(_: Path) -> None:
    async with _with_bill() as store:

        async def function(transaction: Transaction) -> None:
            for number in range(8):
                transaction.put(f"large-{number}", {"text": "x" * 900_000})

        await store.transactions.execute_transaction("g", function)


@raises(errors.UnindexedField)
async def _unindexed_field(_: Path) -> None:
    async with _with_bill(indexed=("n",)) as store:
        async for _found in store.find_states("g", {"status": "paid"}):
            pass


@raises(errors.UnknownStore)
async def _unknown_store(_: Path) -> None:
    open_store("ftp://somewhere")


@raises(errors.VersionConflict)
async def _version_conflict(_: Path) -> None:
    async with _with_bill() as store:
        await store.save_state("g", "bill", {"n": 2})


@raises(errors.IdempotencyConflict)
async def _idempotency_conflict(_: Path) -> None:
    async with _with_bill() as store:
        await store.update_state("g", "bill", {"n": 2}, expected=1, event_id="mine")
        await store.update_state("g", "bill", {"n": 3}, expected=1, event_id="mine")


@raises(errors.GovernorExists)
async def _governor_exists(folder: Path) -> None:
    async with _with_bill() as store:
        persister = StateMachinePersister(store)
        await persister.export_history("g", folder / "g.jsonl")
        await store.log_event("g", "bill", "seen")
        await persister.import_history(folder / "g.jsonl")


@raises(errors.ImportConflict)
async def _import_conflict(folder: Path) -> None:
    (folder / "log.csv").write_text("id,at,n\nbill,2026-03-01T06:00:00Z,7\n")
    async with _with_bill() as store:
        columns = Columns(machine="id", states=("n",), time="at")
        await StateMachinePersister(store).import_csv("g", folder / "log.csv", columns)


@raises(errors.StaleRead)
async def _stale_read(_: Path) -> None:
    async with _with_bill() as store:
        old = await store.get_state("g", "bill")
        new = await store.update_state("g", "bill", {"n": 2}, expected=1)
        EventualConsistency(store).detect_stale_read(old, [new.causality])


@raises(errors.CausalityViolation)
async def _causality_violation(_: Path) -> None:
    async with _with_bill() as store:
        old = await store.get_state("g", "bill")
        new = await store.update_state("g", "bill", {"n": 2}, expected=1)
        EventualConsistency(store).check_causality(old, after=new.causality)


@raises(errors.ConflictResolutionFailed)
async def _conflict_resolution_failed(_: Path) -> None:
    async with _with_bill() as store, _with_bill() as other:
        consistency = EventualConsistency(store, Causal())
        ours, theirs = [await EventualConsistency(each).read("g", "bill") for each in (store, other)]
        consistency.resolve_conflict(ours, theirs)


@raises(errors.TransactionFailed)
async def _transaction_failed(_: Path) -> None:
    engine = MemoryEngine(ManualClock())
    async with (
        open_store(engine, metadata=WHO, timeout_seconds=0.0) as store,
        open_store(engine.beside(), metadata=WHO) as faster,
    ):
        await store.save_state("g", "bill", {"n": 1})

        async def function(transaction: Transaction) -> None:
            seen = await transaction.get("bill")
            await faster.update_state("g", "bill", {"n": 0}, expected=seen)
            transaction.put("bill", {"n": 1})

        await store.transactions.execute_transaction("g", function)


@raises(errors.LockAlreadyHeld)
async def _lock_already_held(_: Path) -> None:
    async with _two_stores() as (one, other), one.lock("r"), other.lock("r", wait_seconds=0):
        pass


@raises(errors.LockAcquisitionFailed)
async def _lock_acquisition_failed(_: Path) -> None:
    async with _two_stores() as (one, other), one.lock("r"), other.lock("r", wait_seconds=0.01):
        pass


@raises(errors.LockLost)
async def _lock_lost(_: Path) -> None:
    async with _with_bill() as store:
        lease = await store.locks.acquire_lock("r")
        await store.locks.break_lock("r")
        await store.update_state("g", "bill", {"n": 2}, expected=1, fence=lease)


@raises(errors.DeadlockDetected)
async def _deadlock_detected(_: Path) -> None:
    clock = ManualClock()
    time = Time(clock)
    async with open_store(MemoryEngine(clock), metadata=WHO) as store:
        locks = managed(store, time)
        caught: list[TaiStateError] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(time.pass_until, lambda: caught)
            async with locks.lock("r", ttl_seconds=60):
                try:
                    await locks.acquire_lock("r")
                except TaiStateError as error:
                    caught.append(error)
        raise caught[0]


@raises(errors.CommitRefused)
async def _commit_refused(_: Path) -> None:
    async with MemoryEngine(ManualClock()) as engine:
        await engine.commit([Check("a/b", PRESENT)])


class Lamp(ComponentState):
    """The states of a machine."""

    Off = described("Dark")
    On = described("Bright")
    Broken = described("Dark for ever", terminal=True)


TURN_ON, BREAK = allow(Lamp.Off, Lamp.On), allow(Lamp.On, Lamp.Broken)


async def _lamp_steps(*steps: Lamp, expected: Any = EXISTS, **more: Any) -> None:
    """Take steps of a lamp that is off."""
    lamp = define("lamp", Lamp, initial=Lamp.Off, rules=[TURN_ON, BREAK], **more)
    async with open_store("memory://", metadata=WHO) as store:
        machine = store.machine("g", "lamp", lamp)
        await machine.initialize()
        for step in steps:
            await machine.transition_to(step, Command("go on"), expected=expected)


@raises(errors.InvalidDefinition)
async def _invalid_definition(_: Path) -> None:
    define("lamp", Lamp, initial=Lamp.Off, rules=[TURN_ON])


@raises(errors.InvalidTransition)
async def _invalid_transition(_: Path) -> None:
    await _lamp_steps(Lamp.Broken)


@raises(errors.PreconditionFailed)
async def _precondition_failed(_: Path) -> None:
    await _lamp_steps(Lamp.On, obligations=[ProofObligation("there is current", lambda _: False)])


@raises(errors.InvariantViolation)
async def _invariant_violation(_: Path) -> None:
    dark = Invariant("dark", "it is never bright", Severity.High, lambda present: present.state is not Lamp.On)
    await _lamp_steps(Lamp.On, invariants=[dark])


@raises(errors.ConcurrentModification)
async def _concurrent_modification(_: Path) -> None:
    await _lamp_steps(Lamp.On, Lamp.Broken, expected=1)


@raises(errors.UnknownMachineState)
async def _unknown_machine_state(_: Path) -> None:
    async with open_store("memory://", metadata=WHO) as store:
        lamp = define("lamp", Lamp, initial=Lamp.Off, rules=[TURN_ON, BREAK])
        other = define("bulb", Lamp, initial=Lamp.Off, rules=[TURN_ON, BREAK])
        await store.machine("g", "lamp", lamp).initialize()
        await store.machine("g", "lamp", other).get()


@raises(errors.CommitOutcomeUnknown)
async def _commit_outcome_unknown(_: Path) -> None:
    engine = FaultyEngine(MemoryEngine(ManualClock()), AtCalls({}))
    async with open_store(engine, metadata=WHO, timeout_seconds=0.01) as store:
        await store.save_state("g", "bill", {"n": 1})
        calls = engine.statistics().calls
        engine.plan = AtCalls({("any", calls + 1 + number): Fault.LOST_BEFORE for number in range(1_000)})
        await store.update_state("g", "bill", {"n": 2}, expected=1)


@raises(errors.EventSourcingError)
async def _event_sourcing_error(_: Path) -> None:
    async with _with_bill() as store:
        await store.core.engine.commit([Delete(BILL)])
        await store.get_state("g", "bill")


@raises(errors.ReducerMissing)
async def _reducer_missing(_: Path) -> None:
    async with open_store("memory://", metadata=WHO) as store:
        await StateMachinePersister(store, REDUCERS).record("g", "bill", [NewEvent("add", 5)], expected=NO_STATE)
        await StateMachinePersister(store).get_state_at("g", "bill", 1)


@raises(errors.NotRetained)
async def _not_retained(_: Path) -> None:
    clock = ManualClock()
    async with open_store(MemoryEngine(clock), metadata=WHO, clock=clock, snapshots=EveryEvents(2, keep=3)) as store:
        await store.save_state("g", "bill", {"n": 1})
        for version in range(1, 9):
            await store.update_state("g", "bill", {"n": 2}, expected=version)
        clock.advance_us(7 * 24 * 3_600 * 1_000_000)
        await StateMachinePersister(store).cleanup_old_data(keep=timedelta(days=1))
        await store.get_state_at("g", "bill", 1)


@raises(errors.CorruptDocument)
async def _corrupt_document(_: Path) -> None:
    async with _with_bill() as store:
        await edit(store.core.engine, BILL, data={"n": 9})
        await store.get_state("g", "bill")


@raises(errors.IncompatibleFormat)
async def _incompatible_format(folder: Path) -> None:
    async with _with_bill() as store:
        await StateMachinePersister(store).export_history("g", folder / "g.jsonl")
        first, *lines = (folder / "g.jsonl").read_text().splitlines(keepends=True)
        newer = re.sub(r'"tai_state_export":\s*\d+', '"tai_state_export": 99', first)
        (folder / "newer.jsonl").write_text("".join([newer, *lines]))
        await StateMachinePersister(store).import_history(folder / "newer.jsonl")


class Paid(BaseModel):
    """A model that the stored state does not fit."""

    paid: bool


@raises(errors.SerializationError)
async def _serialization_error(_: Path) -> None:
    async with _with_bill() as store:
        await store.state("g", "bill", Paid).get()


@raises(errors.StoreUnavailable)
async def _store_unavailable(folder: Path) -> None:
    path = folder / "store.db"
    os.symlink(path, path)  # noqa: PTH211 - a link to itself, which nobody can open
    async with open_store(f"sqlite:///{path}"):
        pass


@raises(errors.StoreUnusable)
async def _store_unusable(folder: Path) -> None:
    async with open_store(f"sqlite:///{folder}/no folder/store.db"):
        pass


@raises(errors.StoreTimeout)
async def _store_timeout(_: Path) -> None:
    engine = MemoryEngine(ManualClock())
    async with open_store(engine, metadata=WHO) as faster:

        class Outrun(AroundEngine):
            async def commit(self, writes: Sequence[Write]) -> Committed:
                await faster.save_state("g", "bill", {"n": 0}, expected=ANY)
                return await self._engine.commit(writes)

        await faster.save_state("g", "bill", {"n": 1})
        async with open_store(Outrun(engine.beside()), metadata=WHO, timeout_seconds=0.0) as store:  # type: ignore[arg-type]
            await store.state("g", "bill").update(lambda now: now)


@pytest.mark.parametrize("error", sorted(CLASSES - FAMILIES, key=str), ids=lambda each: each.__name__)
async def test_an_error_is_raised_from_a_real_path(error: type[TaiStateError], tmp_path: Path) -> None:
    """The library's own code raises this very class for something that a user does, or that happens to one."""
    with pytest.raises(TaiStateError) as raised:
        await CASES[error](tmp_path)
    assert type(raised.value) is error, repr(raised.value)
    assert [entry for entry in raised.traceback if PACKAGE in Path(entry.path).parents], "the test itself raised it"


def test_families_are_only_caught() -> None:
    """The guide names the families, and no code of the package raises a family itself."""
    guide = (DOCS / "guide" / "errors.md").read_text().partition("## Families")[2].partition("## Members")[0]
    named = {*re.findall(r"^\| `(\w+)`", guide, re.MULTILINE), "TaiStateError"} - {"CommitOutcomeUnknown"}
    assert named == {family.__name__ for family in FAMILIES}
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert re.findall(rf"raise (?:errors\.)?(?:{'|'.join(named)})\b", code) == []


def test_each_case_ends_with_an_error_that_is_there() -> None:
    """No case is left over from an error that is gone, and none is of a family."""
    assert CASES.keys() == CLASSES - FAMILIES
