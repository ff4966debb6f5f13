"""Opening a store, by its address and on an engine that is given."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tai_state import EveryEvents, InvalidId, StateMachinePersister, StoreNotFound, UnknownStore, open_store
from tai_state.engines.api import Scan
from tai_state.streams.layout import Layout
from tai_state.testing import ManualClock, MemoryEngine

from ..support.stores import GOVERNOR, METADATA, Place, collected

pytestmark = pytest.mark.anyio


# Several stores on the same documents --------------------------------------------------------------------------


async def test_stores_under_different_roots_do_not_meet(place: Place):
    """Stores under their own root and namespace share an engine and see nothing of each other."""
    layouts = (Layout(), Layout("apps", "one"), Layout("apps", "two"), Layout("a/b", ".."))
    async with (
        place.store(layout=layouts[0]) as first,
        place.store(layout=layouts[1]) as second,
        place.store(layout=layouts[2]) as third,
        place.store(layout=layouts[3]) as fourth,
    ):
        stores = (first, second, third, fourth)
        assert len({store.store_id for store in stores}) == 4
        for index, store in enumerate(stores):
            await store.save_state(GOVERNOR, "alice", {"n": index}, METADATA, event_id="the same id")
        for index, store in enumerate(stores):
            assert await collected(store.list_governors()) == [GOVERNOR]
            assert [each.data for each in await collected(store.list_states(GOVERNOR))] == [{"n": index}]
            assert (await store.get_stats()).versions == 1
            assert (await StateMachinePersister(store).validate_consistency()).consistent


@pytest.mark.parametrize(("root", "namespace"), [("apps", ""), ("", "one")])
def test_root_and_namespace_go_together(root: str, namespace: str):
    """Only one of root and namespace would leave documents in the wrong place, and is refused."""
    with pytest.raises(InvalidId):
        Layout(root, namespace)


# Opening -------------------------------------------------------------------------------------------------------


async def test_opening_by_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The address is taken from the call, else from the environment, else it is a file in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TAI_STATE_STORE", raising=False)
    async with open_store() as store:
        await store.save_state(GOVERNOR, "alice", {}, METADATA)
    assert (tmp_path / "tai-state.db").exists()
    monkeypatch.setenv("TAI_STATE_STORE", f"sqlite:///{tmp_path}/with%20space.db?root=r&namespace=n&indexed=a,b")
    async with open_store() as store:
        await store.save_state(GOVERNOR, "alice", {"a": 1}, METADATA)
        assert [state.state_id for state in await collected(store.find_states(GOVERNOR, {"a": 1}))] == ["alice"]
        assert store.core.layout.governors == "r/n/governors"
    assert (tmp_path / "with space.db").exists()
    async with open_store("sqlite:///tai-state.db") as store:
        assert await store.exists(GOVERNOR, "alice")
    async with open_store("memory://") as store:
        assert not await store.exists(GOVERNOR, "alice")


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_reading_creates_no_store(tmp_path: Path):
    """Told not to create, opening what is not there is an error and leaves nothing behind."""
    with pytest.raises(StoreNotFound):
        async with open_store(f"sqlite:///{tmp_path}/none.db", create=False):
            raise AssertionError
    assert _names_in(tmp_path) == []
    with pytest.raises(StoreNotFound):
        async with open_store("memory://", create=False):
            raise AssertionError


@pytest.mark.parametrize(
    "address",
    ["nonsense", "redis://x", "memory://name", "sqlite://relative.db", "sqlite:///", "memory://?colour=red"],
)
def test_addresses_that_mean_nothing(address: str):
    """An address that names no store is refused with a hint, before anything is opened."""
    with pytest.raises(UnknownStore) as error:
        open_store(address)
    assert error.value.hint


async def test_a_store_keeps_its_identity(tmp_path: Path):
    """A store's id, which its clocks count by, is made once and stays."""
    address = f"sqlite:///{tmp_path}/store.db"
    async with open_store(address) as store:
        first = store.store_id
    async with open_store(address) as one, open_store(address) as other:
        assert one.store_id == other.store_id == first


# Opening on an engine ------------------------------------------------------------------------------------------


async def test_a_store_on_an_engine_that_is_given():
    """The engine is the one that was made, and both go by the clock that was set."""
    clock = ManualClock(start_us=1_000_000)
    engine = MemoryEngine(clock)
    async with open_store(engine, clock=clock, snapshots=EveryEvents(1)) as store:
        saved = await store.save_state(GOVERNOR, "alice", {}, METADATA)
        assert saved.timestamp == saved.recorded_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
        assert [each.id async for each in engine.scan(Scan("governors/bank/states"))] == ["alice"]


@pytest.mark.parametrize("nonsense", [5, object(), b"memory://", ""], ids=["number", "object", "bytes", "empty"])
def test_what_is_neither_address_nor_engine(nonsense: Any):
    """It is refused before anything is opened."""
    with pytest.raises(UnknownStore, match="is not a store address"):
        open_store(nonsense)
