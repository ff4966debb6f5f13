"""The commands about machines: check, show, history, diagram, migrate."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tai_state import ChangeMetadata, open_store
from tai_state.machines import Command, to_dot, to_mermaid, to_table

from ..support.order_versions import JOB, ORDER_NOW, Note, write_app
from ..support.orders import ORDER, PAY, Cart, Order, Payment
from ..support.program import Ended, Inside, Program

ORDERS, JOBS = ("--app", "order_versions:ORDERS"), ("--app", "order_versions:JOBS")
ALL = ("--app", "app:ALL")
MODULES = ("app", "order_versions", "orders")
SETTLED = ("--map", "Paid=Settled")
CHECKED = ["consistent", "machines", "stranded", "illegal", "unchecked", "timers_moved", "findings"]


async def fill(url: str) -> None:
    """Machines of two kinds: one stranded, one written past, one with a time-out that moves; a plain state."""
    async with open_store(url, metadata=ChangeMetadata("ana", "")) as store:
        for name in ("paid", "past"):
            machine = store.machine("shop", name, ORDER)
            await machine.initialize(context=Cart())
            await machine.fire(PAY, Payment(cents=100))
        await machine.transition_to(Order.Shipped, Command("ship"))
        data = (await store.get_state("shop", "past")).data
        data["machine"]["state"] = "Delivered"
        await store.update_state("shop", "past", data, expected=3, event_id="by-hand")
        await store.machine("shop", "new", ORDER).initialize(context=Cart())
        await store.save_state("shop", "plain", {"n": 1})
        await store.machine("work", "job", JOB).initialize(context=Note(text="abc"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and an application."""
    folder = tmp_path_factory.mktemp("shop")
    anyio.run(fill, f"sqlite:///{folder}/tai-state.db")
    write_app(folder)
    (folder / "app.py").write_text("from order_versions import *\nALL = [*ORDERS, *JOBS]\nNONE = []\nTEXT = 'text'\n")
    return folder


@pytest.fixture(autouse=True)
def unloaded() -> Iterator[None]:
    """Commands in this process load the application of their own folder, and leave nothing of it."""
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def inside(shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Inside]:
    """The program in this process, in the folder of the store, which must not change it."""
    before = {path.name: path.read_bytes() for path in shop.glob("*.db*")}
    yield Inside(shop, monkeypatch, capsys)
    assert {path.name: path.read_bytes() for path in shop.glob("*.db*")} == before


@pytest.fixture
def copied(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program in this process, in a folder with a copy of the store, to be changed."""
    for path in shop.glob("*.*"):
        shutil.copy(path, tmp_path)
    return Inside(tmp_path, monkeypatch, capsys)


def checked(ended: Ended, code: int) -> dict[str, Any]:
    """The report of a check, which has exactly the agreed keys."""
    assert ended.code == code, ended
    report: dict[str, Any] = json.loads(ended.out)
    assert list(report) == CHECKED
    for each in report["findings"]:
        assert list(each) == ["path", "version", "kind", "message"]
    return report


def test_check(inside: Inside) -> None:
    """It names what was written past a machine, who is stranded and which time-outs move; the exit code says so."""
    report = checked(inside("machines", "check", *ALL, "--json"), 4)
    findings = {(each["path"].split("states/")[1], each["version"], each["kind"]) for each in report.pop("findings")}
    assert findings == {("new", 1, "timer"), ("paid", 2, "stranded"), ("past", 4, "past"), ("job", 1, "stranded")}
    assert report == {
        "consistent": False,
        "machines": 4,
        "stranded": 2,
        "illegal": 1,
        "unchecked": 0,
        "timers_moved": 1,
    }
    shown = inside("machines", "check", "shop", *ORDERS)
    assert shown.code == 4
    assert "event 'by-hand'" in shown.out
    last = shown.out.splitlines()[-1]
    assert last == "3 machines, 6 allowed steps: not consistent, 1 illegal, 1 stranded, 1 time-out moved"


def test_check_says_what_it_lacks(inside: Inside) -> None:
    """Steps of a definition that is not at hand are unchecked, and never consistent."""
    report = checked(inside("machines", "check", "work", *ORDERS, "--json"), 4)
    assert (report["consistent"], report["unchecked"], report["illegal"]) == (False, 1, 0)
    shown = inside("machines", "check", "work", *ORDERS)
    assert "1 unchecked" in shown.out
    assert shown.err == "steps of definitions that are not at hand are unchecked: pass older versions with --app, too\n"


def test_show(inside: Inside) -> None:
    """It is one machine by the newest definition that knows its state, and each state with why not."""
    shown = inside("machines", "show", "shop", "new", *ORDERS, "--json").json()
    assert list(shown) == ["machine", "state", "epoch", "entered_at", "due", "allowed"]
    assert (shown["machine"], shown["state"], shown["epoch"]) == ("order", "Placed", 0)
    assert shown["due"] > shown["entered_at"]
    assert shown["allowed"] == [
        {"to": "Placed", "refused_because": "no rule leads there"},
        {"to": "Settled", "refused_because": "settled means paid: what is settled is paid"},
        {"to": "Shipped", "refused_because": "Transition rule 'SettledToShipped' failed"},
        {"to": "Delivered", "refused_because": "Transition rule 'ShippedToDelivered' failed"},
        {"to": "Lost", "refused_because": None},
    ]
    lines = [line.split(maxsplit=1) for line in inside("machines", "show", "shop", "new", *ORDERS).out.splitlines()]
    assert ["Placed", "refused: no rule leads there"] in lines
    assert ["Lost", "allowed"] in lines
    old = inside("machines", "show", "shop", "paid", *ORDERS, "--json").json()
    assert [each["to"] for each in old["allowed"] if each["refused_because"] is None] == ["Shipped", "Lost"]
    assert old["due"] is None
    job = inside("machines", "show", "work", "job", *ALL)
    assert "Running  refused: it takes what the state carries: worker" in job.out


@pytest.mark.parametrize(
    ("code", "kind", "arguments"),
    [
        (4, "UnknownMachineState", ["show", "shop", "paid", "--app", "order_versions:ORDER_NOW"]),
        (4, "UnknownMachineState", ["show", "work", "job", *ORDERS]),
        (4, "SerializationError", ["show", "shop", "plain", *ORDERS]),
        (4, "SerializationError", ["diagram", "shop", "plain", *ORDERS]),
        (1, "StateNotFound", ["show", "shop", "nobody", *ORDERS]),
        (1, "StateNotFound", ["history", "shop", "nobody"]),
        (1, "GovernorNotFound", ["check", "nobody", *ORDERS]),
        (1, "GovernorNotFound", ["migrate", "nobody", *ORDERS, *SETTLED]),
        (2, "UsageError", ["check"]),
        (2, "UsageError", ["frobnicate"]),
        (2, "UsageError", ["check", "--app", "app"]),
        (2, "UsageError", ["check", "--app", "app:NONE"]),
        (2, "UsageError", ["check", "--app", "app:TEXT"]),
        (2, "UsageError", ["show", "shop", "new", "--app", "nowhere:ORDERS"]),
        (2, "UsageError", ["diagram", *ALL]),
        (2, "UsageError", ["diagram", "shop", *ORDERS]),
        (2, "UsageError", ["migrate", *ALL, *SETTLED]),
        (2, "UsageError", ["migrate", *ORDERS]),
        (2, "UsageError", ["migrate", *ORDERS, "--map", "Paid"]),
        (2, "UsageError", ["migrate", *ORDERS, "--map", "=Settled"]),
        (2, "UsageError", ["migrate", *ORDERS, *SETTLED, "--map", "Paid=Lost"]),
        (2, "InvalidData", ["migrate", *ORDERS, "--map", "Paid=Gone"]),
        (2, "InvalidData", ["migrate", *ORDERS, "--map", "Shipped=Settled"]),
        (2, "UsageError", ["migrate", *ORDERS, *SETTLED]),
    ],
)
def test_what_goes_wrong_has_its_code(inside: Inside, code: int, kind: str, arguments: list[str]) -> None:
    """Each kind of failure is one JSON error; a migration that nobody confirms is one, too."""
    assert inside("machines", *arguments, "--json").error(code)["type"] == kind


def test_history(inside: Inside) -> None:
    """It is an array of the machine's events with the agreed keys, whoever wrote them, and a table for people."""
    events = inside("machines", "history", "shop", "past", "--json").json()
    assert [list(each) for each in events] == [
        ["version", "from", "to", "trigger", "reason", "timestamp", "duration_us", "kind"]
    ] * 4
    assert [(each["from"], each["to"], each["kind"]) for each in events] == [
        (None, "Placed", "initialize"),
        ("Placed", "Paid", "transition"),
        ("Paid", "Shipped", "transition"),
        ("Shipped", "Delivered", "update"),
    ]
    assert [each["trigger"] for each in events] == ["Event: Initialization", "Event: pay", "Command: ship", None]
    shown = inside("machines", "history", "shop", "past").out.splitlines()
    assert shown[0].split() == ["version", "timestamp", "kind", "from", "to", "reason", "by"]
    assert shown[3].endswith("transition  Paid     Shipped    Command: ship          ana")
    assert [each["to"] for each in inside("machines", "history", "shop", "plain", "--json").json()] == [None]


def test_a_history_goes_on_past_damage(copied: Inside) -> None:
    """A damaged event is named on stderr, the others are shown, and the exit code says that something is wrong."""

    async def damage() -> None:
        async with open_store(f"sqlite:///{copied.folder}/tai-state.db") as store:
            stream = store.core.layout.stream("shop", "past")
            [event] = (await store.core.engine.read([stream.event(2)])).documents
            assert event is not None
            from tai_state.engines.api import Put

            await store.core.engine.commit([Put(event.path, {**event.fields(), "timestamp": "soon"})])

    anyio.run(damage)
    ended = copied("machines", "history", "shop", "past", "--json")
    assert ended.code == 4
    assert [each["version"] for each in json.loads(ended.out)] == [1, 3, 4]
    assert json.loads(ended.err)["error"]["path"].endswith("past~000000000002")
    report = json.loads(copied("machines", "check", *ALL, "--json").out)
    assert [each["kind"] for each in report["findings"] if "past" in each["path"]] == ["corrupt", "past"]


def test_diagram(inside: Inside) -> None:
    """Each form is what the library draws of the newest definition; a machine's state is marked in its own."""
    assert inside("machines", "diagram", *ORDERS).out == to_mermaid(ORDER_NOW)
    assert inside("machines", "diagram", *ORDERS, "--format", "dot").out == to_dot(ORDER_NOW)
    assert inside("machines", "diagram", *ORDERS, "--format", "text").out == to_table(ORDER_NOW)
    marked = inside("machines", "diagram", "shop", "paid", *ALL, "--format", "mermaid", "--json").json()
    assert marked == {"machine": "order", "format": "mermaid", "diagram": to_mermaid(ORDER, "Paid")}


def test_migrate(copied: Inside) -> None:
    """A dry run says what would be done, a run does it, and run again it finds nothing left to do."""
    command = ("machines", "migrate", *ORDERS, *SETTLED, "--json")
    assert copied(*command, "--dry-run").json() == {"moved": 1, "left": 2, "refused": []}
    assert copied(*command, "--yes").json() == {"moved": 1, "left": 2, "refused": []}
    assert copied(*command).json() == {"moved": 0, "left": 3, "refused": []}
    [*_, event] = copied("machines", "history", "shop", "paid", "--json").json()
    assert (event["kind"], event["from"], event["to"]) == ("migrate", "Paid", "Settled")
    assert event["reason"] == "Command: migrate Paid to Settled"
    report = json.loads(copied("machines", "check", "shop", *ORDERS, "--json").out)
    assert report["stranded"] == 0
    shown = copied("machines", "migrate", "work", *JOBS, "--map", "Waiting=Queued", "--yes")
    assert shown == Ended(0, "1 machine moved, 0 left as they are\n")
    assert copied("show", "work", "job", "--json").json()["data"]["machine"]["values"] == {"priority": 3}
    assert copied("verify", "--json").json()["consistent"]


def test_migrate_asks(copied: Inside) -> None:
    """On a terminal it asks how many machines are to be moved; only yes moves them."""
    command = ("machines", "migrate", "shop", *ORDERS, *SETTLED)
    refused = Program(copied.folder).on_terminal(*command, answer="n\n")
    assert refused.code == 130
    assert "Move 1 machine to other states? [y/N]" in refused.out
    agreed = Program(copied.folder).on_terminal(*command, answer="y\n")
    assert (agreed.code, "1 machine moved, 2 left" in agreed.out) == (0, True)


def test_migrate_names_what_it_refuses(copied: Inside) -> None:
    """What cannot be moved is listed with its reason, and the exit code says that something is left to do."""
    command = ("machines", "migrate", "work", "--app", "order_versions:JOB_NOW", "--map", "Waiting=Queued", "--yes")
    ended = copied(*command, "--json")
    assert ended.code == 4
    [refused] = json.loads(ended.out)["refused"]
    assert list(refused) == ["path", "reason"]
    assert refused["path"] == "governors/work/states/job"
    assert "it takes a function for 'Waiting'" in refused["reason"]
    shown = copied(*command)
    assert shown.out.splitlines()[-1] == "0 machines moved, 0 left as they are"
