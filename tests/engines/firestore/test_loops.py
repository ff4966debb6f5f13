"""Event loops, threads and processes that the Firestore engine meets, and the driver that it needs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import trio

from tai_state.engines.api import Put
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.testing.checking import present
from tai_state.testing.emulator import fresh_project

if TYPE_CHECKING:
    from collections.abc import Callable


pytest.importorskip("grpc")
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


def test_two_event_loops_in_two_threads(firestore: Callable[[], FirestoreEngine]):
    """Each event loop has its own engine; one that was opened in another is refused by a clear error."""
    engines: list[FirestoreEngine] = [firestore(), firestore()]
    together = threading.Barrier(2, timeout=60)
    told: list[str] = []

    async def use(own: int) -> None:
        async with engines[own] as engine:
            for n in range(20):
                await engine.commit([Put(f"c/{own}", {"n": n})])
            await asyncio.to_thread(together.wait)
            try:
                await engines[1 - own].read(["c/a"])
            except RuntimeError as error:
                told.append(str(error))
            assert (await present(engine, f"c/{own}")).fields() == {"n": 19}
            await asyncio.to_thread(together.wait)

    threads = [threading.Thread(target=asyncio.run, args=(use(own),)) for own in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["the store was opened in another event loop: open one in each"] * 2


def test_one_event_loop_after_the_other(firestore: Callable[[], FirestoreEngine]):
    """An engine that was closed can be opened again in the next event loop."""
    engine = firestore()

    async def use() -> int:
        async with engine:
            return (await engine.commit([Put("c/a", {})])).revision

    assert asyncio.run(use()) < asyncio.run(use())


_FORKS = """
import asyncio, os, sys
from tai_state.engines.api import Put
from tai_state.engines.firestore.engine import FirestoreEngine

async def use(engine):
    async with engine:
        await engine.commit([Put("c/a", {})])

async def main():
    async with FirestoreEngine(sys.argv[1]) as engine:
        await engine.commit([Put("c/a", {})])
        child = os.fork()
        if not child:
            told = []
            for attempt in (lambda: engine.read(["c/a"]), lambda: use(FirestoreEngine(sys.argv[1]))):
                try:
                    await attempt()
                except RuntimeError as error:
                    told.append("forked" in str(error))
            os._exit(0 if told == [True, True] else 1)
        _, status = os.waitpid(child, 0)
        await engine.commit([Put("c/a", {})])
        print("the child ended with", os.waitstatus_to_exitcode(status))

asyncio.run(main())
"""


def test_a_forked_child_is_told(firestore: Callable[[], FirestoreEngine]):
    """In a child forked after the first use, an engine refuses to work instead of crashing; the parent goes on."""
    environment = {**os.environ, EMULATOR: str(firestore()._emulator)}
    command = [sys.executable, "-c", _FORKS, fresh_project()]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert "the child ended with 0" in done.stdout, done.stderr


def test_trio_is_told(firestore: Callable[[], FirestoreEngine]):
    """Under trio, opening says that it cannot be."""

    async def use() -> None:
        async with firestore():
            pass

    with pytest.raises(RuntimeError, match="with asyncio only"):
        trio.run(use)


_MISSING = """
import asyncio, sys
sys.modules["google.cloud.firestore_v1"] = None
from tai_state import UnknownStore
from tai_state.engines.firestore.engine import FirestoreEngine
try:
    asyncio.run(FirestoreEngine("p").__aenter__())
except UnknownStore as error:
    print(error)
"""


def test_a_missing_extra_is_named():
    """Without Google's library, opening names the extra to install."""
    done = subprocess.run([sys.executable, "-c", _MISSING], capture_output=True, text=True, check=True)
    assert 'pip install "tai-state[firestore]"' in done.stdout


async def test_only_an_open_engine_works():
    """Before it is opened, an engine says so."""
    with pytest.raises(RuntimeError, match="not open"):
        await FirestoreEngine("p").read([])


def test_importing_loads_no_driver():
    """Neither the package nor the engine's module loads Google's libraries."""
    code = (
        "import sys, tai_state, tai_state.engines.firestore.engine; print({'grpc', 'google.auth'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
