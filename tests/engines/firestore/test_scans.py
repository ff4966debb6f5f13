"""Scans on Firestore: what is looked for here, what is not paid for, what is left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from tai_state.engines.api import Document, Moment, Put, Scan, Where
from tai_state.engines.firestore import engine as engine_module
from tai_state.engines.firestore.engine import FirestoreEngine
from tai_state.engines.firestore.streaming import End, Page, Part
from tai_state.errors import StoreUnavailable, StoreUnusable
from tai_state.testing.emulator import fresh_project

from ...support.firestore import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


grpc = pytest.importorskip("grpc")
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


async def test_a_moment_lasts_an_hour(firestore: Callable[..., FirestoreEngine], monkeypatch: pytest.MonkeyPatch):
    """After nearly an hour, reads and scans of a moment say that it is over and what to do, and do not show now."""
    monkeypatch.setattr(engine_module, "_MOMENT_SECONDS", 0)
    async with firestore() as engine, engine.moment() as moment:
        for read in (moment.read(["c/a"]), collected_of(moment)):
            with pytest.raises(StoreUnusable, match="keeps for an hour") as error:
                await read
            assert (error.value.code, error.value.is_transient) == ("MOMENT_OVER", False)


async def collected_of(moment: Moment) -> list[Document]:
    """The documents of a collection at a moment."""
    return [document async for document in moment.scan(Scan("c"))]


@pytest.mark.parametrize(
    "where",
    [
        Where("__x__", (1,)),
        Where("", (1,)),
        Where("data.", (1,)),
        Where("n", (2**70,)),
        Where("n", (float(2**70),)),
        Where("text", ("x" * 2_000,)),
        Where("state", ("y" * 2_000,)),
        Where("n", (*range(100, 131), 2**70)),
        Where("od`d\\", (1,)),
        Where("ö.ü", (1,)),
    ],
    ids=lambda each: f"{each.field!r:.20}",
)
async def test_what_the_server_cannot_look_for_is_found_here(firestore: Callable[[], FirestoreEngine], where: Where):
    """Filters on odd fields, with big values, or with many, find what they should."""
    fields = {"__x__": 1, "": 1, "data": {"": 1}, "n": 2**70, "text": "x" * 2_000, "state": "y" * 2_000}
    async with firestore() as engine:
        await engine.commit([Put("c/b", {**fields, "od`d\\": 1, "ö": {"ü": 1}}), Put("c/a", {}), Put("c/z", {"n": 1})])
        assert [each.id async for each in engine.scan(Scan("c", where=[where]))] == ["b"]


@pytest.mark.parametrize("bound", [".", "..", "__x__", "a/b", "b\x00\x00", "\x00"])
async def test_bounds_that_are_no_ids(firestore: Callable[[], FirestoreEngine], bound: str):
    """A scan takes any text for its bounds, also what no document can be called."""
    ids = ["!", "-", "__", "__y", "a", "a.", "aa", "b", "b!"]
    async with firestore() as engine:
        await engine.commit([Put(f"c/{each}", {}) for each in ids])
        assert [each.id async for each in engine.scan(Scan("c", start=bound))] == [
            each for each in ids if each >= bound
        ]
        assert [each.id async for each in engine.scan(Scan("c", end=bound))] == [each for each in ids if each < bound]


async def test_nobody_pays_for_much_that_is_not_used(
    firestore: Callable[[], FirestoreEngine], monkeypatch: pytest.MonkeyPatch
):
    """A query is ended when its documents are not used in time, and another one goes on where it ended."""
    ends: list[End] = []
    ended = asyncio.Event()
    parts: list[int] = []
    hand_over = Page.hand_over

    def noted(self: Page, arrived: Part | End) -> None:
        hand_over(self, arrived)
        if isinstance(arrived, End):
            ends.append(arrived)
            self._loop.call_soon_threadsafe(ended.set)
        else:
            parts.append(len(arrived.documents))

    monkeypatch.setattr(Page, "hand_over", noted)
    async with firestore() as engine:
        for n in range(60):
            await engine.commit([Put(f"c/{n:02}", {"text": "x" * 100_000})])
        scan = engine.scan(Scan("c"))
        found = [await anext(scan)]
        await ended.wait()
        assert sum(parts) < 20
        found += [document async for document in scan]
    assert [document.id for document in found] == [f"{n:02}" for n in range(60)]
    assert [ends[0].is_cut, ends[-1].is_cut] == [True, False]
    assert sum(parts) == len(found)


@pytest.mark.parametrize(("code", "stops"), [("UNAVAILABLE", ()), ("PERMISSION_DENIED", (256, 512))])
async def test_a_scan_goes_on_where_it_failed(
    firestore: Callable[[], FirestoreEngine], monkeypatch: pytest.MonkeyPatch, code: str, stops: tuple[int, ...]
):
    """A scan goes on by itself after an error that passes, and if asked after one that lasts; none comes twice."""
    failed: list[Page] = []
    hand_over = Page.hand_over

    def failing(self: Page, arrived: Part | End) -> None:
        hand_over(self, arrived)
        if self not in failed and len(failed) < 2:
            failed.append(self)
            hand_over(self, End(is_cut=True, error=Failure(grpc.StatusCode[code])))

    monkeypatch.setattr(Page, "hand_over", failing)
    found: list[str] = []

    async def go_on(scan: AsyncIterator[Document]) -> None:
        async for document in scan:
            found.append(document.id)

    async with firestore() as engine:
        await engine.commit([Put(f"c/{n:03}", {}) for n in range(600)])
        scan = engine.scan(Scan("c"))
        for count in stops:
            with pytest.raises(StoreUnavailable):
                await go_on(scan)
            assert len(found) == count
        await go_on(scan)
    assert len(failed) == 2
    assert found == [f"{n:03}" for n in range(600)]


async def _to_its_end(engine: FirestoreEngine) -> None:
    assert len([each async for each in engine.scan(Scan("c"))]) == 8


async def _to_a_limit(engine: FirestoreEngine) -> None:
    assert len([each async for each in engine.scan(Scan("c", limit=2))]) == 2


async def _left_early(engine: FirestoreEngine) -> None:
    await anext(engine.scan(Scan("c")))


async def _refused(engine: FirestoreEngine) -> None:
    from tai_state.engines.firestore.driver import RunQueryRequest

    with pytest.raises(grpc.RpcError):
        await engine._opened().query(RunQueryRequest(parent="nothing"), 0).next()


@pytest.mark.parametrize("scan", [_to_its_end, _to_a_limit, _left_early, _refused], ids=lambda scan: scan.__name__)
async def test_what_was_scanned_leaves_nothing_behind(
    firestore: Callable[[str], FirestoreEngine], scan: Callable[[FirestoreEngine], Awaitable[None]]
):
    """However a scan ends, its connection ends soon after the store."""
    project = fresh_project()
    async with firestore(project) as engine:
        await engine.commit([Put(f"c/{n}", {"text": "x" * 400_000}) for n in range(8)])
    descriptors = _descriptors()
    for _ in range(10):
        async with firestore(project) as engine:
            await scan(engine)
    with anyio.fail_after(30):
        while _descriptors() > descriptors:  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(0.01)


def _descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])
