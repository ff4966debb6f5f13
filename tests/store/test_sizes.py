"""How much room a store takes: every document counts once, under its kind."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tai_state import EveryEvents
from tai_state.engines.api import Damage, Document, Put, Scan
from tai_state.engines.paging import Paged, mapped

from ..support.stores import GOVERNOR, METADATA, AroundEngine, Place, fields_at

pytestmark = pytest.mark.anyio

WAITER = "0" * 16


async def _filled(place: Place, **options: Any) -> None:
    async with place.store(snapshots=EveryEvents(2, keep=5), **options) as store:
        await store.save_state(GOVERNOR, "alice", {"text": "x" * 1_000}, METADATA, event_id="mine")
        await store.update_state(GOVERNOR, "alice", {"text": "y" * 2_000}, METADATA, expected=1)
        await store.save_state("plant", "P-1", {"text": "ä" * 500}, METADATA)
        async with store.lock("r"):
            await store.delete_state("plant", "P-1", METADATA, expected=1)


async def test_sizes_are_those_of_the_documents(place: Place):
    """The sizes of states, events, snapshots, markers and all others are those of their JSON."""
    await _filled(place)
    record = "governors/bank/retired/alice"
    locks = [f"locks/held/waiters/{WAITER}", "locks/held", "lockbeats/held"]
    async with place.store() as store:
        await store.core.engine.commit([Put(path, {"it is": path}) for path in (*locks, record)])
        size = await store.get_size()
        paths = {
            "state_bytes": ["governors/bank/states/alice", "governors/plant/states/P-1"],
            "event_bytes": [
                *("governors/bank/events/alice~000000000001", "governors/bank/events/alice~000000000002"),
                *("governors/plant/events/P-1~000000000001", "governors/plant/events/P-1~000000000002"),
            ],
            "snapshot_bytes": [
                "governors/bank/snapshots/alice~000000000002",
                "governors/plant/snapshots/P-1~000000000002",
            ],
            "marker_bytes": ["governors/bank/ids/mine"],
            "other_bytes": ["governors/bank", "governors/plant", "meta/store", record, *locks],
        }
        expected = {
            name: sum([len(msgspec.json.encode(await fields_at(store.core.engine, path))) for path in each])
            for name, each in paths.items()
        }
    assert {name: getattr(size, name) for name in expected} == expected
    assert (size.documents, size.total_bytes, size.damaged) == (16, sum(expected.values()), 0)
    assert size.event_bytes > 1_000 + 2_000 + 500


async def test_an_empty_store_takes_little_room(place: Place):
    """A store without states has its own document only."""
    async with place.store() as store:
        own = len(msgspec.json.encode(await fields_at(store.core.engine, "meta/store")))
        assert msgspec.structs.astuple(await store.get_size()) == (1, 0, 0, 0, 0, own, own, 0)


class Damaged(AroundEngine):
    """An engine whose events cannot be read."""

    def scan(self, scan: Scan) -> Paged[Document]:  # noqa: D102
        documents = self._engine.scan(scan)
        if not scan.collection.endswith("/events"):
            return documents
        harm = Damage("is damaged")
        return mapped(documents, lambda page: (msgspec.structs.replace(each, content=harm) for each in page))


async def test_damaged_documents_are_counted_and_the_others_are_measured(place: Place):
    """A document whose content is damaged has no size; it is counted, and the sizes of all others are there."""
    await _filled(place)
    async with place.store() as store:
        sound = await store.get_size()
    async with place.store(Damaged(place.engine())) as store:  # type: ignore[arg-type]
        size = await store.get_size()
    assert (size.documents, size.damaged, size.event_bytes) == (12, 4, 0)
    assert size.total_bytes == sound.total_bytes - sound.event_bytes
