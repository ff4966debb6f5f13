"""Whatever is changed in a stored document, no read serves it: the short tier of the flips of ``tests/proof``."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import tai_state
from tai_state.conflicts import notes
from tai_state.engines.sqlite import checksums, integrity, reader, seeing, writer
from tai_state.history import checking, essentials, timers, unfinished, validation
from tai_state.streams import reading, records, repeating

from ..support.mistakes import Mistake, plant

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.timeout(400)

PROGRAM = Path(__file__).parents[1] / "proof"
PACKAGE = Path(tai_state.__file__).parent


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What is logged of so much damage is not for reading."""
    caplog.set_level(logging.CRITICAL, "tai_state")


@pytest.fixture
def proof(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Gives a module of ``tests/proof``, whose modules import each other by their bare names."""
    monkeypatch.syspath_prepend(PROGRAM)
    return importlib.import_module


def test_no_flip_is_served_and_none_is_unseen(tmp_path: Path) -> None:
    """Each field of each kind of document is changed, on SQLite past its checksums and in memory with none to pass."""
    account = tmp_path / "account.json"
    command = [sys.executable, str(PROGRAM), "--tier", "ci", "--only", "flips", "--json", str(account)]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-4_000:]
    for each in json.loads(account.read_text())["proofs"]:
        assert each["trials"] >= 200


def test_all_kinds_and_fields_are_flipped(proof, tmp_path: Path) -> None:
    """The flips know every shape of a document in the library, and the filled store has every field of each."""
    flipping, flips = proof("flipping"), proof("flips")
    shapes = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"^[A-Z]+ = Shape\(\s*(\w+)[,)]", path.read_text(), re.MULTILINE)
    }
    known = {each.struct.__name__ for each in flipping.SHAPES.values()}
    assert {name for _, name in shapes} == known, "add a shape to SHAPES of flipping.py, and a document to fill()"

    async def fields() -> set[tuple[str, str]]:
        async with flips.flipper_over("memory", tmp_path) as flipper:
            rows = flipper.ground.rows()
            return {(flipping.kind_of(row.path), key) for row in rows for key in json.loads(row.text)}

    stored = {(kind, field) for kind, shape in flipping.SHAPES.items() for field in shape.struct.__struct_fields__}
    assert stored - anyio.run(fields) - {("state", "deleted")} == set(), "fill() in flip_store.py makes none of these"


def test_all_reads_are_made(proof) -> None:
    """Every public call of the library either is among the reads after a flip, or is listed with the reason why not."""
    flip_reads = proof("flip_reads")
    classes = ("StateStore", "StateHandle", "StateMachinePersister", "TransactionManager", "Transaction")
    calls = {
        f"{name}.{key}"
        for name in (*classes, "LockManager", "EventualConsistency")
        for key, value in inspect.getmembers(getattr(tai_state, name), inspect.isfunction)
        if not key.startswith("_")
    }
    calls |= {name for name in tai_state.__all__ if inspect.isfunction(getattr(tai_state, name))} - {
        "open_store",
        "FirestoreStore",
    }
    made = {re.split(r"[ ,]", name)[0] for name in (*flip_reads.READS, *flip_reads.LAST_READS)}
    assert calls - made - set(flip_reads.NOT_READS) == set()
    assert set(flip_reads.NOT_READS) - calls == set()
    assert set(flip_reads.NOT_READS) & made == set()


def mistake(words: str, module: ModuleType, right: str, wrong: str, engine: str, *fields: str) -> Any:
    """A mistake in a check, the engine on which it shows, and the fields whose flips show it."""
    return pytest.param(Mistake(words, module, right, wrong), engine, fields, id=words.replace(" ", "-"))


MISTAKES = [
    mistake(
        "a read of one document compares no checksum", reader,
        "documents(collection, [row])[0]", "Document(collection, document_id, row[1], row[2], row[3])",
        "sqlite", "state: data", "state: metadata.reason",
    ),
    mistake(
        "no checksum is compared", checksums, ")) == checksum:", ")) == checksum or True:",
        "sqlite", "event: action", "marker: version",
    ),
    mistake(
        "the checksum leaves out the time", checksums, "crc32(stamp(revision, updated_us)",
        "checksum or crc32(stamp(revision, updated_us)", "sqlite", "event: column updated_us",
    ),
    mistake(
        "the column of times is not compared", integrity, "timestamp IS NOT {TIMESTAMP}", "0",
        "sqlite", "event: column timestamp",
    ),
    mistake(
        "text in place of a number ends a scan", reader,
        "        return _page(connection.execute(_of_any(sql), place), rows_max)", "        raise",
        "sqlite", "event: column revision",
    ),
    mistake(
        "text in place of a number ends a watch", seeing,
        "iif(typeof(documents.revision) IN ('text', 'blob'), 0, documents.revision)", "documents.revision",
        "sqlite", "state: column revision",
    ),
    mistake(
        "a counter without numbers is taken", writer,
        '    raise CorruptDocument(path, "the table counter is damaged: restore a backup")', "    return None",
        "sqlite", "counter: column id",
    ),
    mistake(
        "governors are listed unread", reading, "    document.decode(GOVERNOR)\n", "", "sqlite", "governor: document",
    ),
    mistake(
        "a damaged note of a restore ends all", unfinished,
        "except CorruptDocument:\n        return False", "except ZeroDivisionError:\n        return False",
        "memory", "restore: finished",
    ),
    mistake(
        "a state may be of another event", checking, '"version", "timestamp", "metadata", ', '"version", ',
        "memory", "state: timestamp", "state: metadata.reason",
    ),
    mistake(
        "1 is 1.0 in a context", checking, "encode(record.metadata.context) != event.metadata.context", "False",
        "memory", "state: metadata.context",
    ),
    mistake(
        "snapshots are kept in any order", checking, "sorted(set(state.kept)) != list(state.kept)", "False",
        "memory", "state: kept",
    ),
    mistake(
        "the time of the oldest snapshot is anything", checking, "as_of = self._as_of or event.as_of",
        'as_of = self._as_of or ""', "memory", "snapshot: as_of",
    ),
    mistake(
        "a missing marker is no finding", essentials,
        "if sound is None:\n        return True\n", "if sound is None:\n        return False\n",
        "memory", "marker: document",
    ),
    mistake(
        "a governor may be missing", validation, "await governor_problem(self._core, governor_id)) is not None",
        "await governor_problem(self._core, governor_id)) is ...", "memory", "governor: document",
    ),
    mistake(
        "a time-out may be missing", timers, "(due := due_of(record.data)) is not None]", "(due := due_of(None))]",
        "memory", "timer: document removed",
    ),
    mistake(
        "a repeated call takes an event of another place", repeating,
        "            check_place(append.stream, document, record)\n", "", "memory", "event: version",
    ),
    mistake(
        "a context that holds no note ends a list", notes, "except (KeyError, TypeError, *NOT_JSON):",
        "except KeyError:", "memory", "event: metadata.context is empty text",
    ),
]  # fmt: skip


def failures_of(proof, engine: str, fields: tuple[str, ...]) -> list[str]:
    """What is wrong after flips of these fields, up to the first failure."""
    flips = proof("flips")

    async def make() -> Any:
        return await flips.flipped(
            flips.Task(engine, 1, range(600)),
            only=lambda each: f"{each.kind}: {each.field} {each.what}".startswith(fields),
            failures_max=1,
        )

    return anyio.run(make).failures


@pytest.mark.parametrize(("wrong", "engine", "fields"), MISTAKES)
def test_flips_find_mistakes_in_checks(
    proof, monkeypatch: pytest.MonkeyPatch, wrong: Mistake, engine: str, fields: tuple[str, ...]
) -> None:
    """A check that is left out lets a flip be served, be unseen, or end in an error of no type of the library's own."""
    plant(monkeypatch, wrong)
    assert failures_of(proof, engine, fields) != []


@pytest.mark.parametrize(
    ("genuine", "field"),
    [
        (lambda *_: True, "event: action"),
        (lambda event, governor_id: event.computed_digest(governor_id) == event.digest, "event: previous"),
    ],
    ids=["no digest is computed", "a digest may be written in two ways"],
)
def test_flips_find_mistakes_in_the_check_of_digests(proof, monkeypatch: pytest.MonkeyPatch, genuine, field) -> None:
    """An event that is taken for genuine without its digest, or with another text of it, is unseen."""
    monkeypatch.setattr(records.EventRecord, "is_genuine", genuine)
    assert failures_of(proof, "memory", (field,)) != []
