"""The commands about stores that are changed apart from one another, run as users run them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tai_state import ChangeMetadata, NewEvent, StateMachinePersister, StateStore, open_store

from ..support.program import Program

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

METADATA = ChangeMetadata("ana", "a test")
A, B = "sqlite:///a.db", "sqlite:///b.db"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program in an empty folder."""
    return Program(tmp_path)


def change(folder: Path, name: str, work: Callable[[StateStore], Awaitable[Any]]) -> None:
    """Let some work happen in one of the stores."""

    async def run() -> None:
        async with open_store(f"sqlite:///{folder}/{name}.db") as store:
            await work(store)

    anyio.run(run)


def apart(program: Program) -> None:
    """Two stores that had the same pump, and changed it apart."""
    change(program.folder, "a", lambda store: store.save_state("field", "pump", {"n": 1}, METADATA))
    assert program("sync", A, B).code == 0
    for name, n in (("a", 2), ("b", 3)):
        data = {"n": n, name: True}
        change(
            program.folder,
            name,
            lambda store, data=data: store.update_state("field", "pump", data, METADATA, expected=1),
        )


def test_sync(program: Program):
    """It counts, joins, says what it dropped, and finds nothing more to do."""
    apart(program)
    dry = program("sync", A, B, "--dry-run", "--json")
    done = program("sync", A, B, "--json")
    report = json.loads(done.out)
    assert json.loads(dry.out) == report
    [met] = report.pop("conflicts")
    assert report == {
        "checked": 1, "same": 0, "sent": 0, "received": 0, "joined": 1, "failed": [], "resume": None, "complete": True
    }  # fmt: skip
    assert (met["governor"], met["state_id"], met["strategy"], met["discarded"]) == (
        "field", "pump", "last_write_wins", 2
    )  # fmt: skip
    again = program("sync", A, B)
    assert (again.code, again.out) == (
        0,
        "1 state checked, 1 in sync: 0 events from A to B, 0 from B to A, 0 joined\n",
    )
    for store in (A, B):
        assert program("verify", "--store", store).code == 0


def test_retire(program: Program):
    """It counts, takes the store out of the clock, and then finds nothing more to do."""
    apart(program)
    assert program("sync", A, B).code == 0
    gone = json.loads(program("doctor", "--store", B, "--json").out)
    store_id = next(each["message"] for each in gone["checks"] if "its id is" in each["message"]).rpartition(" ")[2]
    dry = program("retire", store_id, "--store", A, "--dry-run", "--json")
    asked = program("retire", store_id, "--store", A)
    assert (asked.code, "pass --yes" in asked.err) == (2, True)
    done = program("retire", store_id, "--store", A, "--governor", "field", "--yes", "--json")
    assert json.loads(done.out) == {"checked": 1, "retired": 1, "failed": [], "complete": True}
    assert dry.out == done.out
    again = program("retire", store_id, "--store", A, "--yes")
    assert (again.code, again.out) == (0, "1 state checked, 0 of which named the store in the clock\n")
    refused = program("sync", A, B)
    assert refused.code == 4
    assert f"store {store_id} was retired" in refused.out
    assert "cannot retire itself" in program("retire", store_id, "--store", B, "--yes", "--json").error(2)["message"]
    assert program("retire", store_id, "--store", A, "--governor", "nobody", "--yes").code == 1
    unasked = program("retire", store_id[:-1], "--store", A, "--json").error(1)
    assert (unasked["type"], unasked["path"]) == ("StoreNotNamed", store_id[:-1])
    mistyped = program("retire", store_id[:-1], "--store", A, "--yes", "--json").error(1)
    assert (mistyped["type"], mistyped["path"]) == ("StoreNotNamed", store_id[:-1])
    assert program("retire", store_id[:-1], "--store", A, "--dry-run").code == 0
    assert program("verify", "--store", A).code == 0


def test_how_conflicts_are_resolved(program: Program):
    """Is chosen; what was dropped is listed, in either store."""
    apart(program)
    done = program("sync", A, B, "--resolver", "fields")
    assert "1 change dropped and recorded" in done.out
    [conflict] = json.loads(program("conflicts", "field", "--store", B, "--json").out)
    assert list(conflict) == [
        "governor", "state_id", "version", "event_id", "timestamp", "strategies", "heads", "discarded"
    ]  # fmt: skip
    [dropped] = conflict["discarded"]
    state = json.loads(program("show", "field", "pump", "--store", A, "--json").out)
    assert {state["data"]["n"], dropped["value"]} == {2, 3}
    assert state["data"] | {"n": 0} == {"n": 0, "a": True, "b": True}
    listed = program("conflicts", "field", "--store", A)
    assert listed.out.splitlines()[0].split() == ["state_id", "version", "timestamp", "strategy", "discarded"]
    assert f'{{"n": {dropped["value"]}}}' in listed.out


def test_without_conflicts(program: Program):
    """There is nothing to list; an unknown governor is an error."""
    change(program.folder, "a", lambda store: store.save_state("field", "pump", {"n": 1}, METADATA))
    listed = program("conflicts", "field", "--store", A)
    assert (listed.code, listed.out, listed.err) == (0, "", "no conflicts\n")
    assert json.loads(program("conflicts", "field", "--store", A, "--json").out) == []
    assert program("conflicts", "nothing", "--store", A).code == 1


def test_a_dry_run_makes_no_store(program: Program):
    """Where the second store would be made, it counts what would be sent; a first one must be there."""
    change(program.folder, "a", lambda store: store.save_state("field", "pump", {"n": 1}, METADATA))
    dry = program("sync", A, B, "--governor", "field", "--dry-run", "--json").json()
    assert program("sync", B, A, "--dry-run").code == 1
    assert not (program.folder / "b.db").exists()
    assert program("sync", A, B, "--governor", "field", "--json").json() == dry
    assert dry["sent"] == 1


def test_what_cannot_be_synced(program: Program):
    """A store that is not there, an address that is none, and a state that needs a reducer."""
    assert program("sync", A, B).code == 1
    assert not list(program.folder.glob("*.db"))
    assert program("sync", "nonsense", B).code == 2
    change(program.folder, "a", lambda store: store.save_state("field", "pump", {"n": 1}, METADATA))
    for options in ([], ["--dry-run"]):
        found = program("sync", A, B, "--governor", "feild", *options, "--json")
        assert found.error(1)["type"] == "GovernorNotFound"
        assert not (program.folder / "b.db").exists()

    async def grow(store: StateStore) -> None:
        persister = StateMachinePersister(store, {"add": lambda state, _: {"n": (state or {"n": 0})["n"] + 1}})
        await persister.record("field", "sum", [NewEvent("add", 1) for _ in range(300)], METADATA, expected=0)

    change(program.folder, "a", grow)
    done = program("sync", A, B, "--json")
    report = json.loads(done.out)
    assert (done.code, report["complete"], report["sent"]) == (4, False, 1)
    assert [path for path, _ in report["failed"]] == ["field sum"]
