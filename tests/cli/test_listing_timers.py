"""The command that shows which time-outs stand in a store."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from tai_state import open_store
from tai_state.engines.api import Put
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.testing import ManualClock

from ..support.program import Inside
from ..support.stores import edit
from ..support.timers import switched_on

ROWS = [
    {"due": "2026-09-21T14:13:50.000000Z", "governor": "bank", "state_id": "b", "state": "On", "target": None},
    {"due": "2026-09-21T14:13:50.000000Z", "governor": "club", "state_id": "a", "state": "On", "target": None},
    {"due": "2026-09-21T14:14:00.000000Z", "governor": "bank", "state_id": "a", "state": "On", "target": None},
]
APP = """
from tests.support.kettles import KETTLE, STUCK
BOTH = [KETTLE, STUCK]
NONE = "no definition"
"""


@pytest.fixture
def kettles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program beside three kettles that heat."""

    async def make() -> None:
        clock = ManualClock()
        url = f"sqlite:///{tmp_path}/tai-state.db"
        async with open_store(SqliteEngine(url.removeprefix("sqlite:///"), clock), clock=clock) as store:
            await switched_on(store, "b")
            await switched_on(store, "a", governor_id="club")
            clock.advance_us(10_000_000)
            await switched_on(store, "a")

    anyio.run(make)
    (tmp_path / "kettles.py").write_text(APP)
    return Inside(tmp_path, monkeypatch, capsys)


def test_timers_are_listed_in_the_order_in_which_they_are_due(kettles: Inside) -> None:
    """``timers --json`` is an array with the agreed keys; without the definitions, no target is known."""
    found = kettles("timers", "--json").json()
    assert found == sorted(ROWS, key=lambda row: (row["due"], found.index(row)))
    assert list(found[0]) == ["due", "governor", "state_id", "state", "target"]
    lines = kettles("timers").out.splitlines()
    assert lines[0].split() == ["due", "governor", "state_id", "state", "target"]
    assert lines[3].split() == ["2026-09-21T14:14:00.000000Z", "bank", "a", "On"]


@pytest.mark.parametrize("app", ["kettles:KETTLE", "kettles:BOTH"])
def test_definitions_tell_the_targets(kettles: Inside, app: str) -> None:
    """With one definition or several, each time-out says where it leads."""
    assert [row["target"] for row in kettles("timers", "--app", app, "--json").json()] == ["Hot"] * 3
    assert kettles("timers", "--app", "kettles:STUCK", "--json").json() == kettles("timers", "--json").json()


def test_what_is_due_before_a_time(kettles: Inside) -> None:
    """``--due-before`` leaves out what is due at that time or later."""
    for time, count in (("2026-09-21T14:13:50Z", 0), ("2026-09-21T16:13:50.000001+02:00", 2), ("2027-01-01", 3)):
        assert len(kettles("timers", "--due-before", time, "--json").json()) == count, time
    assert kettles("timers", "--due-before", "2020-01-01").err == "no time-outs\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--due-before", "soon"), "is not a time"),
        (("--app", "kettles:NONE"), "is not a definition of a machine"),
        (("--app", "kettles:MISSING"), "cannot be loaded"),
    ],
)
def test_a_wrong_option_is_refused(kettles: Inside, arguments: tuple[str, ...], words: str) -> None:
    """What cannot be understood ends with 2, before the store is opened."""
    ended = kettles("timers", *arguments)
    assert (ended.code, words in ended.err) == (2, True), ended


def test_a_damaged_machine_hides_no_other(kettles: Inside, tmp_path: Path) -> None:
    """What cannot be read is named on stderr, all else is listed, and the command ends with 4."""

    async def spoil() -> None:
        async with SqliteEngine(f"{tmp_path}/tai-state.db", ManualClock()) as engine:
            await edit(engine, "governors/bank/states/b", data={"n": 1})
            await engine.commit([Put("timers/2026", {})])

    anyio.run(spoil)
    ended = kettles("timers", "--json")
    assert ended.code == 4
    assert "governors/bank/states/b" in ended.err
    assert "timers/2026" in ended.err
    assert ended.out.count('"state_id"') == 2
