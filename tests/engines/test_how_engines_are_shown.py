"""What engines, watches and iterators say of themselves in a log or a debugger: one line, and no secrets."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from tai_state import open_store
from tai_state.engines.api import Engine
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.engines.memory import MemoryEngine
from tai_state.engines.paging import Paged, mapped
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.errors import StoreUnavailable
from tai_state.testing import AtCalls, Fault, FaultyEngine, ManualClock

from ..conftest import EngineUnderTest
from ..support.locks import until

pytestmark = pytest.mark.anyio


async def test_an_engine_says_where_it_is_and_whether_it_is_open(
    engine_under_test: EngineUnderTest, tmp_path: Path, clock: ManualClock
):
    """Each engine names its class and its address, and tells whether it is open."""
    engine = engine_under_test.make(tmp_path, clock)
    shown = f"<{type(engine).__name__} {engine}"
    assert str(engine).startswith(f"{engine_under_test.name}://")
    assert repr(engine).startswith(shown)
    assert repr(engine).endswith(", closed>")
    async with engine:
        assert repr(engine).startswith(shown)
        assert repr(engine).endswith(", open>")
    assert repr(engine).endswith(", closed>")


async def test_the_address_of_a_file_opens_the_same_store(tmp_path: Path, clock: ManualClock):
    """What an engine on a file says to be its address is one, whatever its path is made of."""
    engine = SqliteEngine(str(tmp_path / "a b?c%20#ü.db"), clock)
    async with open_store(engine) as store, open_store(str(engine), create=False) as other:
        assert other.store_id == store.store_id


def test_the_address_of_a_database_names_project_and_database(monkeypatch: pytest.MonkeyPatch):
    """An engine on Firestore says which database it uses, and on which emulator, and nothing of credentials."""
    monkeypatch.delenv(EMULATOR, raising=False)
    assert repr(FirestoreEngine("shop")) == "<FirestoreEngine firestore://shop/(default), closed>"
    monkeypatch.setenv(EMULATOR, "127.0.0.1:8080")
    engine = FirestoreEngine("shop", "tests")
    assert repr(engine) == "<FirestoreEngine firestore://shop/tests, at the emulator on 127.0.0.1:8080, closed>"


async def test_a_faulty_engine_says_what_it_is_around(clock: ManualClock):
    """An engine around another one has the other's address, and shows it with what it did to it."""
    inner = MemoryEngine(clock)
    faulty = FaultyEngine(inner, AtCalls({("read", 1): Fault.UNAVAILABLE, ("commit", 1): Fault.LOST_AFTER}))
    async with faulty:
        with pytest.raises(StoreUnavailable):
            await faulty.read(["a/b"])
        await faulty.read(["a/b"])
        assert str(faulty) == "memory://"
        assert repr(faulty) == "<FaultyEngine around <MemoryEngine memory://, open>, 2 calls, 1 of 2 faults hit>"


async def test_a_watch_says_what_it_watches_and_what_it_has_to_tell(engine: Engine):
    """A watch names the first of its targets, counts the changes that nobody has taken, and tells why it ended."""
    async with engine.watch("a/1", "a/2", "a/3", "b") as changes:
        name = type(changes).__name__
        await until(lambda: repr(changes) == f"<{name} of 'a/1', 'a/2', 'a/3', …, 3 changes at hand>")
        await anext(changes)
        assert repr(changes).endswith(", 2 changes at hand>")
    async with engine.watch("b") as changes:
        await engine.__aexit__(None, None, None)
        assert repr(changes) == f"<{name} of 'b', 0 changes at hand, ended by RuntimeError>"


async def test_an_iterator_says_where_it_stands():
    """An iterator in pages tells whether it is inside a page, waits for one, or can give nothing more than an error."""
    gate = anyio.Event()
    pages = iter([[1, 2]])

    async def fetch() -> list[int] | None:
        await gate.wait()
        return next(pages, None)

    items = mapped(Paged(fetch), lambda page: (1 // (each - 2) for each in page))
    assert repr(items) == "<Paged, between two pages>"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(items.__anext__)
        await until(lambda: repr(items) == "<Paged, fetching a page>")
        gate.set()
    assert repr(items) == "<Paged, inside a page>"
    with pytest.raises(ZeroDivisionError):
        await anext(items)
    assert repr(items) == "<Paged, ended by ZeroDivisionError>"
