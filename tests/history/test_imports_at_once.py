"""Two imports of rows that both have, at one moment by their clocks: both would store the very same events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tai_state import Columns, StateMachinePersister, StateStore

from ..support.overtaking import Overtaken
from ..support.stores import Place, collected

pytestmark = pytest.mark.anyio

COLUMNS = Columns("machine", ("state",), "time")
ROWS = [("M", "on"), ("N", "on"), ("M", "off"), ("M", "on"), ("N", "off")]
OTHERS = {
    "same": ROWS,
    "first_row": ROWS[:1],
    "first_row_of_each": ROWS[:2],
    "first_machine": [row for row in ROWS if row[0] == "M"],
    "last_machine": [row for row in ROWS if row[0] == "N"],
    "rows_after": [*ROWS, ("M", "broken"), ("N", "on")],
}
CALLS = range(1, 7)
"""The calls of the engine before which the other import runs; an import makes fewer."""


def write_rows(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    """A file with these rows. Events name their file, so all have one name."""
    path.parent.mkdir()
    lines = [f"{machine},2026-01-01,{state}" for machine, state in rows]
    path.write_text("\n".join(["machine,time,state", *lines]) + "\n")
    return path


@pytest.mark.parametrize("at", CALLS)
@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS)
async def test_two_imports_at_once_share_the_rows(
    place: Place, tmp_path: Path, others: Sequence[tuple[str, str]], at: int
):
    """Each row that an import says it recorded is stored, and is counted by one of the two imports."""
    ours, theirs = write_rows(tmp_path / "ours" / "log.csv", ROWS), write_rows(tmp_path / "theirs" / "log.csv", others)
    engine = Overtaken(place.engine())
    async with place.store() as rival, place.store(engine) as store:
        counts = []

        async def overtake() -> None:
            counts.append(await StateMachinePersister(rival).import_csv("g", theirs, COLUMNS))

        engine.plan(at, overtake)
        counts.append(await StateMachinePersister(store).import_csv("g", ours, COLUMNS))
        if len(counts) == 1:
            assert engine.calls < at
            return
        assert [each.events + each.skipped for each in counts] == [len(others), len(ROWS)]
        assert sum(each.events for each in counts) == max(len(ROWS), len(others))
        for machine in ("M", "N"):
            longer = max(ROWS, others, key=len)
            wanted = [state for name, state in longer if name == machine]
            assert await states(store, machine) == wanted
        assert (await StateMachinePersister(store).validate_consistency()).consistent


async def states(store: StateStore, machine: str) -> list[str]:
    """The states of a machine, from its events."""
    return [event.to_state["state"] for event in await collected(store.get_events("g", machine)) if event.to_state]
