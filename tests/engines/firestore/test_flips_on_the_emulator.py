"""A few of the flips of ``tests/proof`` on Firestore's emulator: what is edited there comes out of no read."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tai_state import Inconsistent
from tai_state.engines.firestore.engine import FirestoreEngine
from tai_state.testing import ManualClock

from ...support.stores import Dated, Opened
from .test_seals import rewrite

pytest.importorskip("grpc")
pytestmark = pytest.mark.anyio

PATHS = {
    "event": "governors/bank/events/alice~000000000002",
    "state": "governors/bank/states/alice",
    "snapshot": "governors/bank/snapshots/alice~000000000004",
    "marker": "governors/bank/ids/alice-2",
    "retired": "governors/club/retired/iris",
    "cleaned": "governors/bank/cleaned/dave",
    "governor": "governors/bank",
    "waiter": "locks/printer/waiters/ben",
    "lockbeat": "lockbeats/printer",
    "restore": "meta/store/restores/shop",
    "lock": "locks/printer",  # last, since a document that is put back has another revision, and so another fence
}


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


def another_text(fields: Any) -> None:
    """Change the first text of a document."""
    name = next(each for each in sorted(fields) if fields[each].string_value)
    fields[name].string_value = "x" + fields[name].string_value[1:]


def one_field_less(fields: Any) -> None:
    """Remove the first field of a document."""
    del fields[min(each for each in fields if each != "_w")]


READ_IN_NEED = {"waiter"}
"""Kinds that are read only by those who wait, or search for deadlocks among them."""

EDITS: dict[str, Callable[[Any], None]] = {"another text": another_text, "one field less": one_field_less}


async def test_an_edit_is_refused_or_reported(
    firestore: Callable[[], FirestoreEngine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After each edit of each kind of document every read gives what it gave, or an error that names the damage."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "proof")
    flips, flip_store, flip_reads, flip_rules, flipping = map(
        importlib.import_module, ("flips", "flip_store", "flip_reads", "flip_rules", "flipping")
    )
    caplog.set_level(logging.CRITICAL, "tai_state")
    clock, dates = ManualClock(1_790_000_000_000_000), {}
    failures, refused = [], 0
    async with firestore() as engine:
        await flip_store.fill(Dated(engine, clock, dates), clock, tmp_path)

        async def look() -> tuple[dict[str, Any], list[str]]:
            later = flip_store.clock_after()
            async with flip_store.store_over(Opened(Dated(engine, later, dates)), later, "later") as store:
                return await flip_reads.outcomes(store, flip_reads.READS), await flips._verified(store)

        before, found = await look()
        assert found == []
        for (kind, path), (what, edit) in zip(PATHS.items(), cycle(EDITS.items()), strict=False):
            kept: dict[str, Any] = {}
            await rewrite(engine, path, partial(_edited, edit, kept))
            after, found = await look()
            await rewrite(engine, path, partial(_put_back, kept))
            flip = flipping.Flip(kind, "text", what, path, _edited)
            # Not compared as text: Firestore returns the entries of a map in any order.
            differing = {name: each for name, each in after.items() if not _same(each, before[name])}
            refused += any(isinstance(each, Inconsistent) for each in differing.values())
            failures += [
                f"{flip}: {name} gives {each!r}"
                for name, each in differing.items()
                if not isinstance(each, Inconsistent)
                and not flip_rules.may_differ(flip, name, before[name], each, is_reported=bool(found))
            ]
            failures += [] if differing or found or kind in READ_IN_NEED else [f"{flip}: unseen"]
    assert failures == []
    assert refused >= len(PATHS) - 3


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Exception):
        return type(one) is type(other) and str(one) == str(other)
    return bool(one == other)


def _edited(edit: Callable[[Any], None], kept: dict[str, Any], fields: Any) -> None:
    kept |= {name: type(fields[name]).FromString(fields[name].SerializeToString()) for name in fields}
    edit(fields)


def _put_back(kept: dict[str, Any], fields: Any) -> None:
    for name, value in kept.items():
        fields[name].CopyFrom(value)
