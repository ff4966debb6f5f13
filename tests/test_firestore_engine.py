"""The Firestore engine by itself: what the examination of all engines does not ask."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio

from tai_state import ChangeMetadata, FirestoreStore, open_store
from tai_state.engines.api import ABSENT, ANYTHING, At, Change, Check, Document, Put, Scan, Where
from tai_state.engines.firestore.engine import EMULATOR, FirestoreEngine
from tai_state.engines.firestore.errors import MEANINGS, mapped
from tai_state.engines.firestore.streaming import End, Page, Part
from tai_state.engines.firestore.watching import Target, Watched
from tai_state.errors import (
    CommitRefused,
    CommitTooLarge,
    CorruptDocument,
    DocumentTooLarge,
    InvalidData,
    StoreTimeout,
    StoreUnavailable,
)
from tai_state.testing.checking import present, until
from tai_state.testing.emulator import fresh_project, started_emulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

grpc = pytest.importorskip("grpc")
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The driver knows no other event loop."""
    return "asyncio"


class _Failure(Exception):
    """Looks like an error of the driver."""

    def __init__(self, code: Any) -> None:
        super().__init__(code)
        self._code = code

    def code(self) -> Any:
        return self._code

    def details(self) -> str:
        return "some details\nand more"


CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_every_status_code_has_a_meaning(code: Any):
    """Each code of gRPC is in the table, and is an error of the tree; details are cut to one line."""
    assert code.name in MEANINGS
    for operation in ("read", "commit"):
        error = mapped(_Failure(code), operation)
        assert isinstance(error, StoreUnavailable | StoreTimeout | InvalidData)
        assert "some details" in str(error)
        assert "more" not in str(error)
        assert not getattr(error, "unknown", False) or operation == "commit"


def test_the_table_has_no_other_codes():
    """Nothing in the table is no status code."""
    assert set(MEANINGS) == {code.name for code in CODES}


def test_what_a_commits_failure_leaves_open():
    """Only what the server cannot have applied is said not to be; a refusal needs a requirement."""
    sure = {code.name for code in CODES if not getattr(mapped(_Failure(code), "commit"), "unknown", False)}
    assert sure == {
        *("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "UNAUTHENTICATED"),
        *("FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    }
    refused = [code.name for code in CODES if isinstance(mapped(_Failure(code), "commit", required=""), CommitRefused)]
    assert refused == ["NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"]
    assert getattr(mapped(ValueError("no code"), "commit"), "unknown", False)


async def test_a_document_with_many_small_values_is_measured_as_firestore_does(
    firestore: Callable[[], FirestoreEngine],
):
    """What is small as JSON and large for Firestore is refused before it is sent; what just fits is stored."""
    async with firestore() as engine:
        with pytest.raises(DocumentTooLarge):
            await engine.commit([Put("c/a", {"n": [0] * 131_072})])
        await engine.commit([Put("c/a", {"n": [0] * 131_000})])
        assert len((await present(engine, "c/a")).fields()["n"]) == 131_000


async def test_a_commit_is_measured_as_it_is_sent(firestore: Callable[[], FirestoreEngine]):
    """Names count towards what the server takes in one message."""
    async with firestore() as engine:
        deep = "/".join(["c" * 1_400] * 3)
        with pytest.raises(CommitTooLarge):
            await engine.commit([Put(f"{deep}/{n}", {}) for n in range(1_000)])


async def test_nothing_to_do_is_answered_with_the_time(firestore: Callable[[], FirestoreEngine]):
    """A commit that changes and requires nothing, and a read of nothing, still tell the engine's time."""
    async with firestore() as engine:
        made = await engine.commit([Put("c/a", {})])
        for committed in (await engine.commit([]), await engine.commit([Check("c/a", ANYTHING)])):
            assert committed.time_us >= made.time_us
        assert (await engine.read([])).time_us >= made.time_us


async def test_writing_the_same_again_is_a_write(firestore: Callable[[], FirestoreEngine]):
    """A document that is put again with the same content has another revision."""
    async with firestore() as engine:
        revisions = [(await engine.commit([Put("c/a", {"n": 1})])).revision for _ in range(3)]
        assert len(set(revisions)) == 3
        assert (await present(engine, "c/a")).revision == revisions[-1]


async def test_a_foreign_value_spoils_only_its_own_document(firestore: Callable[[], FirestoreEngine]):
    """A document with a timestamp in it is reported as corrupt when it is looked at; others are read."""
    from tai_state.engines.firestore.messages import commit_request

    async with firestore() as engine:
        connection = engine._opened()
        request = commit_request(connection.names, [Put("c/a", {}), Put("c/b", {})], 1, engine.capabilities, 10_000)
        request.writes[0].update.fields["at"].timestamp_value.FromSeconds(1)
        await connection._commit(request, None, [])
        spoilt, sound = [each async for each in engine.scan(Scan("c"))]
        with pytest.raises(CorruptDocument):
            spoilt.fields()
        assert sound.fields() == {}


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


async def test_a_scan_goes_on_where_it_failed(
    firestore: Callable[[], FirestoreEngine], monkeypatch: pytest.MonkeyPatch
):
    """Whoever goes on after an error gets every document once, whatever had arrived by then."""
    failed: list[Page] = []
    hand_over = Page.hand_over

    def failing(self: Page, arrived: Part | End) -> None:
        hand_over(self, arrived)
        if self not in failed and len(failed) < 2:
            failed.append(self)
            hand_over(self, End(is_cut=True, error=_Failure(grpc.StatusCode.UNAVAILABLE)))

    monkeypatch.setattr(Page, "hand_over", failing)
    found: list[str] = []

    async def go_on(scan: AsyncIterator[Document]) -> None:
        async for document in scan:
            found.append(document.id)

    async with firestore() as engine:
        await engine.commit([Put(f"c/{n:03}", {}) for n in range(600)])
        scan = engine.scan(Scan("c"))
        for count in (256, 512):
            with pytest.raises(StoreUnavailable):
                await go_on(scan)
            assert len(found) == count
        await go_on(scan)
    assert found == [f"{n:03}" for n in range(600)]


async def test_sixty_four_writers_at_once(firestore: Callable[[], FirestoreEngine]):
    """Many callers of one engine are all served, each with its own documents."""
    async with firestore() as engine:

        async def write(name: int) -> None:
            revision = (await engine.commit([Put(f"c/{name}", {"n": 0}, ABSENT)])).revision
            for n in range(1, 6):
                revision = (await engine.commit([Put(f"c/{name}", {"n": n}, At(revision))])).revision

        async with anyio.create_task_group() as tasks:
            for name in range(64):
                tasks.start_soon(write, name)
        assert [each.fields()["n"] async for each in engine.scan(Scan("c"))] == [5] * 64


async def test_more_calls_than_one_connection_carries(firestore: Callable[[], FirestoreEngine]):
    """With more calls than a channel takes, others are opened, and all are answered."""
    async with firestore() as engine:
        await engine.commit([Put("c/a", {})])
        async with anyio.create_task_group() as tasks:
            for _ in range(300):
                tasks.start_soon(engine.read, ["c/a"])
        assert 1 < len(engine._opened()._channels._channels) <= 8


async def test_a_thousand_watched_machines(firestore: Callable[[], FirestoreEngine]):
    """One stream carries a thousand documents, each with a watch of its own, and every change arrives."""
    async with firestore() as engine:
        made = await engine.commit([Put(f"c/{n}", {}) for n in range(1_000)])
        arrived: set[str] = set()

        async def watch(path: str) -> None:
            async with engine.watch(path) as changes:
                await until(changes, Change(path, made.revision))
                entered.append(path)
                if len(entered) == 1_000:
                    all_entered.set()
                arrived.add((await anext(changes)).path)

        entered: list[str] = []
        all_entered = anyio.Event()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for n in range(1_000):
                    tasks.start_soon(watch, f"c/{n}")
                await all_entered.wait()
                await engine.commit([Put(f"c/{n}", {"n": 1}) for n in range(1_000)])
        assert len(arrived) == 1_000


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def test_a_watch_outlives_its_connection(monkeypatch: pytest.MonkeyPatch, firestore: Any):
    """When the server goes away and comes back, a watch goes on and tells what is different then, and calls work."""
    port = _free_port()
    monkeypatch.setenv(EMULATOR, f"127.0.0.1:{port}")
    project = fresh_project()
    with started_emulator(port=port):
        engine = FirestoreEngine(project)
        await engine.__aenter__()
        await engine.commit([Put("c/a", {}), Put("c/gone", {})])
        watch = engine.watch("c/a", "c")
        changes = await watch.__aenter__()
        first = [await anext(changes), await anext(changes)]
        assert {each.path for each in first} == {"c/a", "c/gone"}
    # This emulator kept its documents in memory: to the next one, both are gone.
    with pytest.raises(StoreUnavailable):
        await engine.read(["c/a"])
    with started_emulator(port=port):
        await until(changes, Change("c/a", None), Change("c/gone", None))
        async with FirestoreEngine(project) as other:
            made = await other.commit([Put("c/a", {})])
        await until(changes, Change("c/a", made.revision))
        made = await engine.commit([Put("c/a", {"n": 2}, At(made.revision))])
        await until(changes, Change("c/a", made.revision))
        assert (await present(engine, "c/a")).fields() == {"n": 2}
        await watch.__aexit__(None, None, None)
        await engine.__aexit__(None, None, None)


async def test_a_watch_outlives_what_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, firestore: Callable[[], FirestoreEngine]
):
    """A message that is no message begins the stream anew, for a watch that is not established yet as for others."""
    from tai_state.engines.firestore import driver

    parse, seen = driver.ListenResponse.FromString, []

    def garbled(data: bytes) -> Any:
        seen.append(data)
        return parse(b"\xff" if len(seen) in (1, 6) else data)

    monkeypatch.setattr(driver, "ListenResponse", SimpleNamespace(FromString=garbled))
    async with firestore() as engine:
        await engine.commit([Put("c/a", {})])
        async with engine.watch("c/a") as changes:
            await anext(changes)
            for n in range(4):
                made = await engine.commit([Put("c/a", {"n": n})])
                await until(changes, Change("c/a", made.revision))
    assert len(seen) > 6


async def test_what_was_watched_leaves_nothing_behind(firestore: Callable[[], FirestoreEngine]):
    """No task that waits for the driver outlives a watch, or its end would arrive in the next event loop; no thread."""
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    async with firestore() as engine:
        for _ in range(60):
            async with anyio.create_task_group() as commits:
                for n in range(20):
                    commits.start_soon(engine.commit, [Put(f"c/{n}", {})])
            async with engine.watch("c/a"):
                pass
            assert asyncio.all_tasks() <= tasks
    left = [each.name for each in set(threading.enumerate()) - threads]
    assert not [name for name in left if name.startswith("tai-state")]


async def test_watches_that_begin_together_end_apart(firestore: Callable[[], FirestoreEngine]):
    """Of streams begun in one turn of the event loop, each ends by itself, in whatever order."""
    for order in ((0, 1), (1, 0)):
        async with firestore() as first, firestore() as second:
            watches = [each.watch("c/a") for each in (first, second)]
            await asyncio.gather(*(each.__aenter__() for each in watches))
            with anyio.fail_after(30):
                for each in order:
                    await watches[each].__aexit__(None, None, None)


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


async def test_nobody_there(monkeypatch: pytest.MonkeyPatch):
    """Where no server answers, each verb says so, and a commit that perhaps arrived says that."""
    monkeypatch.setenv(EMULATOR, f"127.0.0.1:{_free_port()}")
    async with FirestoreEngine(fresh_project()) as engine:
        with pytest.raises(StoreUnavailable) as failed:
            await engine.read(["c/a"])
        assert not failed.value.unknown
        assert failed.value.is_transient
        with pytest.raises(StoreUnavailable):
            await anext(engine.scan(Scan("c")))
        with pytest.raises(StoreUnavailable) as failed:
            await engine.commit([Put("c/a", {}, ABSENT)])
        assert failed.value.unknown
        with pytest.raises(StoreUnavailable):
            async with engine.watch("c/a"):
                pass


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

    with pytest.raises(RuntimeError, match="under asyncio only"):
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


async def test_named_databases_are_apart(firestore: Callable[..., FirestoreEngine]):
    """Two databases of one project share nothing."""
    one = firestore()
    async with one, firestore(one._project, "other") as other:
        await one.commit([Put("c/a", {})])
        assert (await other.read(["c/a"])).documents == (None,)


def _told(*targets: Target) -> Watched:
    watched = Watched(targets)
    for target in targets:
        target.begin()
    return watched


def _tell(watched: Watched, target: Target, revision: int | None) -> Change | None:
    target.tell("c/a", revision)
    watched.look("c/a")
    return watched.pop()


def test_a_lagging_target_changes_nothing():
    """Of two targets with one document, the one behind neither takes it back nor makes it absent."""
    document, collection = Target(["c/a"]), Target(collection="c")
    watched = _told(document, collection)
    assert _tell(watched, document, 3) == Change("c/a", 3)
    assert [_tell(watched, collection, each) for each in (1, 2, None, 3)] == [None] * 4
    assert _tell(watched, document, None) is None
    assert _tell(watched, collection, None) == Change("c/a", None)
    assert _tell(watched, collection, 5) == Change("c/a", 5)


def test_what_is_not_told_again_is_gone():
    """After a reset, what was there before and is not named again is absent, and so are missing documents."""
    target = Target(["c/a", "c/b"])
    watched = _told(target)
    assert not watched.is_established
    assert _tell(watched, target, 3) == Change("c/a", 3)
    assert target.end() == ["c/b"]
    assert watched.is_established
    target.begin()
    target.tell("c/b", 4)
    assert target.end() == ["c/a"]


def test_changes_are_coalesced():
    """Of several changes of a document, the last one is handed on."""
    target = Target(["c/a"])
    watched = _told(target)
    for revision in (1, 2, 3):
        target.tell("c/a", revision)
        watched.look("c/a")
    assert watched.pop() == Change("c/a", 3)
    assert watched.pop() is None


async def test_the_store_by_its_original_name(
    monkeypatch: pytest.MonkeyPatch, firestore: Callable[[], FirestoreEngine]
):
    """``FirestoreStore`` opens what ``open_store`` opens at the same address."""
    monkeypatch.setenv(EMULATOR, str(firestore()._emulator))
    project, metadata = fresh_project(), ChangeMetadata("tester", "a test")
    async with FirestoreStore(project, "other", indexed=("status",)) as store:
        await store.save_state("bank", "alice", {"status": "open"}, metadata)
    async with open_store(f"firestore://{project}/other") as store:
        assert (await store.get_state("bank", "alice")).data == {"status": "open"}
