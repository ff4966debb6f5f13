"""Rows of an imported CSV that a careless reader takes for something else: equal ones, long ones, odd times."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

import pytest

from tai_state import Columns, ImportStats, InvalidData, StateMachinePersister, StateStore, open_store

from ..support.stores import METADATA, collected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.anyio

TIME = "2026-01-31T09:15:00Z"


@pytest.fixture
def anyio_backend() -> str:
    """A file is read alike under every event loop."""
    return "asyncio"


@pytest.fixture
async def store() -> AsyncIterator[StateStore]:
    """A store in memory."""
    async with open_store("memory://") as store:
        yield store


async def imported(store: StateStore, folder: Path, rows: Sequence[tuple[str, str, str]]) -> ImportStats:
    """Import rows of time, machine and status."""
    path = folder / "log.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("time", "machine", "status"), *rows])
    columns = Columns("machine", ("status",), "time")
    return await StateMachinePersister(store).import_csv("field", path, columns)


async def test_equal_rows_are_events_of_their_own(store: StateStore, tmp_path: Path):
    """Each of several equal rows is one event with an id of its own, and importing them again adds nothing."""
    rows = [(TIME, "P-1", "tick"), (TIME, "P-2", "tick"), (TIME, "P-1", "tick"), (TIME, "P-1", "tock")]
    rows += rows[:1]
    await imported(store, tmp_path, rows)
    ids = [event.event_id for event in await collected(store.get_all_events("field"))]
    assert len(ids) == len(rows)
    assert len(set(ids)) == len(rows)
    again = await imported(store, tmp_path, rows)
    assert (again.events, again.skipped) == (0, len(rows))


async def test_rows_that_an_earlier_release_imported_are_known(store: StateStore, tmp_path: Path):
    """Their ids were made of the cells alone; importing the file again adds nothing to them."""
    row = (TIME, "P-1", "tick")
    former = str(
        uuid5(UUID("5f0f7d1c-6d0b-5b6e-9f0e-3d2a4c7b8e91"), json.dumps(["field", "P-1", *row], separators=(",", ":")))
    )
    await store.save_state("field", "P-1", {"status": "tick"}, METADATA, event_id=former)
    assert await imported(store, tmp_path, [row, row]) == ImportStats(1, 1, 1)
    assert await imported(store, tmp_path, [row, row]) == ImportStats(0, 1, 2)


@pytest.mark.parametrize(
    "length",
    [131_072, 131_073, 300_000],
)
async def test_a_long_cell_is_imported(store: StateStore, tmp_path: Path, length: int):
    """What fits into a document is imported, however long a cell is."""
    await imported(store, tmp_path, [(TIME, "P-1", "x" * length)])
    assert (await store.get_state("field", "P-1")).data == {"status": "x" * length}


async def test_a_cell_that_no_document_holds_is_refused_by_its_row(store: StateStore, tmp_path: Path):
    """What does not fit is refused before anything is written, by the number of its row."""
    with pytest.raises(InvalidData, match="row 2"):
        await imported(store, tmp_path, [(TIME, "P-1", "on"), (TIME, "P-1", "x" * 1_100_000)])
    assert await collected(store.list_governors()) == []


LAST_SECOND = datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)
NEXT_YEAR = datetime(2017, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cell", "earliest", "latest"),
    [
        (TIME, datetime(2026, 1, 31, 9, 15, tzinfo=UTC), None),
        ("2026-01-31T09:15:00.25+05:30", datetime(2026, 1, 31, 3, 45, 0, 250_000, tzinfo=UTC), None),
        ("2026-01-31T09:15:00-00:00", datetime(2026, 1, 31, 9, 15, tzinfo=UTC), None),
        ("2026-01-31T09:15:00", datetime(2026, 1, 31, 9, 15, tzinfo=UTC), None),
        pytest.param("2026-01-31T09:15:00z", datetime(2026, 1, 31, 9, 15, tzinfo=UTC), None),
        pytest.param("2026-01-31t09:15:00z", datetime(2026, 1, 31, 9, 15, tzinfo=UTC), None),
        ("2026-01-31T09:15:00.123456000Z", datetime(2026, 1, 31, 9, 15, 0, 123_456, tzinfo=UTC), None),
        pytest.param("2016-12-31T23:59:60Z", LAST_SECOND, NEXT_YEAR),
        pytest.param("2016-12-31T18:59:60.5-05:00", LAST_SECOND, NEXT_YEAR),
    ],
)
async def test_a_time_of_the_standard_is_taken(
    store: StateStore, tmp_path: Path, cell: str, earliest: datetime, latest: datetime | None
):
    """What RFC 3339 allows is a time, a leap second and lower-case letters too; without an offset it is UTC."""
    await imported(store, tmp_path, [(cell, "P-1", "on")])
    assert earliest <= (await store.get_state("field", "P-1")).timestamp <= (latest or earliest)


@pytest.mark.parametrize(
    "cell",
    [
        *("", "yesterday", "1701012312", f" {TIME}", "2026-13-01T00:00:00Z", "2026-01-31T09:60:00Z"),
        *("2026-01-31T24:00:00Z", "2026-01-31T09:15:61Z"),
        "1701012312345",
        "2020W01",
        "2020-W01-1T00:00:00Z",
        "20260131T091500Z",
        "2026-01-31x09:15:00Z",
        "2026-01-31T09:15:00+10:60",
        "2026-01-31T09:15:00+01",
        "2026-01-31T09:15:00+05:30:15",
        "2026-01-31T09:15:00.1234567Z",
        "2026-01-31T09:15:00.123456789Z",
        "2026-01-31 09:15:00Z",
        "2026-01-31T09:15:60Z",
        "2016-12-31T23:59:60+01:00",
        "2026-01-31T09:15:00+24:00",
        "2026-01-31T09:15:00.Z",
        "２０２６-01-31T09:15:00Z",
        "0000-01-31T09:15:00Z",
        "9999-12-31T23:59:59-01:00",
    ],
)
async def test_what_is_not_a_time_is_refused_by_its_row(store: StateStore, tmp_path: Path, cell: str):
    """A cell that means no exact moment is refused before anything is written, by the number of its row."""
    with pytest.raises(InvalidData, match="row 2"):
        await imported(store, tmp_path, [(TIME, "P-1", "on"), (cell, "P-1", "off")])
    assert await collected(store.list_governors()) == []


@pytest.mark.parametrize("row", ['"open', 'a"b"c,,"x"y'], ids=["cut_off", "quotes_inside"])
async def test_a_row_that_is_not_csv_is_named(store: StateStore, tmp_path: Path, row: str):
    """Where the file stops being CSV is said by the number of the row."""
    path = tmp_path / "log.csv"
    path.write_text(f"time,machine,status\n{TIME},P-1,on\n\n{row}\n")
    with pytest.raises(InvalidData, match="row 2"):
        await StateMachinePersister(store).import_csv("field", path, Columns("machine", ("status",), "time"))
