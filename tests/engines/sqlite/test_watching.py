"""Watching an SQLite file: what a look costs, how often it may be, and what is left of a watch."""

from __future__ import annotations

import gc
import threading
import warnings
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import apsw
import pytest

from tai_state.engines.api import ABSENT, Delete, DocumentChange, Put
from tai_state.engines.sqlite import watcher as watcher_module
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.engines.sqlite.openfile import OpenFile
from tai_state.engines.sqlite.preparing import prepare
from tai_state.engines.sqlite.schema import connect
from tai_state.engines.sqlite.seeing import LARGE, Sight
from tai_state.engines.sqlite.watcher import POLL_SECONDS, REST, Enter, Leave, Moved, Watcher
from tai_state.engines.sqlite.worker import Job
from tai_state.engines.sqlite.writer import Writer
from tai_state.engines.watching import Watch
from tai_state.errors import StoreUnavailable
from tai_state.testing import ManualClock
from tai_state.testing.checking import HANG_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tai_state.engines.api import Write

anyio_test = pytest.mark.anyio


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a store is, or will be."""
    return tmp_path / "store.db"


def _engine(file: Path) -> SqliteEngine:
    return SqliteEngine(str(file), ManualClock(0, step_us=1))


def _committed(writer: Writer, *writes: Write) -> int:
    job: Job[Any] = Job([prepare(write) for write in writes], None)
    writer.serve([job])
    assert job.error is None
    return job.result.revision


class _Time:
    """The watcher's clocks, moved by hand: each look takes as much of the processor as is set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.look_seconds = 0.0
        self._used = 0.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        self._used += self.look_seconds
        return self._used


class Scene:
    """A watcher that is driven by hand, its engine's own writer, and another engine's."""

    def __init__(self, file: Path, time: _Time) -> None:
        open_ = partial(connect, str(file), create=True, busy_timeout_ms=0)
        self.ours, self.theirs = (Writer(OpenFile(str(file), open_), ManualClock(0, step_us=1)) for _ in range(2))
        self.statements: list[str] = []
        self.watcher = Watcher(OpenFile(str(file), lambda: self._traced(open_())), self.ours)
        self.time = time

    def _traced(self, connection: apsw.Connection) -> apsw.Connection:
        connection.exec_trace = lambda _, sql, __: self.statements.append(sql) or True
        return connection

    def ask(self, request: Enter | Leave | Moved) -> Any:
        """Have a request served."""
        job: Job[Any] = Job(request, None)
        self.watcher.serve([job])
        if job.error is not None:
            raise job.error
        return job.result

    def idle(self, seconds: float = POLL_SECONDS) -> list[tuple[str, int | None]]:
        """What is found when so much time has passed without a request."""
        self.time.now += seconds
        found = self.watcher.idle()
        return [] if found is None or found.result is None else [(path, now) for _, path, now in found.result.moves]

    def close(self) -> None:
        """Close all three."""
        for each in (self.ours, self.theirs, self.watcher):
            each.close()


@pytest.fixture
def scene(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """The three on a new file, each having committed or looked once, so that nobody's first time is counted."""
    time = _Time()
    monkeypatch.setattr(watcher_module, "time", time)
    with closing(Scene(file, time)) as scene:
        _committed(scene.theirs, Put("others/a", {}))
        _committed(scene.ours, Put("others/b", {}))
        watch = Watch(["others/none"])
        scene.ask(Enter(watch))
        scene.idle()
        scene.idle()
        scene.ask(Leave(watch))
        yield scene


def _many(collection: str, count: int) -> list[Put]:
    return [Put(f"{collection}/{n:05}", {"n": n}) for n in range(count)]


def test_what_this_engine_commits_elsewhere_is_not_looked_for(scene: Scene):
    """However much is watched, its own commits of other documents cost not one row, nor a statement about one."""
    _committed(scene.ours, *_many("large", LARGE + 50), *_many("small", 10))
    scene.ask(Enter(Watch(["large", "small", "other/a", "other/b"])))
    scene.idle()
    scene.statements.clear()
    for n in range(50):
        _committed(scene.ours, Put("elsewhere/a", {"n": n}), Delete("elsewhere/b"))
        assert scene.idle() == []
        assert scene.idle() == []
    assert not [sql for sql in scene.statements if "documents" in sql]


def test_a_commit_of_this_engine_costs_a_row_for_each_document_of_it_that_is_watched(scene: Scene):
    """Of a large collection only the document that is named is looked at, and it is told with its revision."""
    _committed(scene.ours, *_many("large", LARGE + 50))
    scene.ask(Enter(Watch(["large"])))
    scene.idle()
    scene.statements.clear()
    revision = _committed(scene.ours, Put("large/00007", {}), Delete("large/00008"), Put("elsewhere/a", {}))
    moved = Moved([("large", "large/00007"), ("large", "large/00008")])
    assert scene.ask(moved).moves == [("large", "large/00007", revision), ("large", "large/00008", None)]
    assert len([sql for sql in scene.statements if "documents" in sql]) == 2
    assert scene.ask(moved).moves == []


def test_what_others_commit_is_found_by_one_look(scene: Scene):
    """New, changed, deleted and re-made documents of others are found, each once, in collections large and small."""
    for collection in ("large", "small"):
        _committed(scene.ours, *_many(collection, LARGE + 50 if collection == "large" else 10))
    scene.ask(Enter(Watch(["large", "small", "d/a", "d/b", "d/c"])))
    scene.idle()
    first = _committed(scene.theirs, Put("d/a", {}), Put("small/00003", {}), Put("large/new", {}), Put("x/y", {}))
    second = _committed(scene.theirs, Delete("small/00004"), Delete("large/00009"), Put("d/b", {}), Delete("x/y"))
    third = _committed(scene.theirs, Delete("d/a"), Put("large/00010", {}))
    found = scene.idle()
    assert dict(found) == {
        "d/b": second,
        "small/00003": first,
        "small/00004": None,
        "large/new": first,
        "large/00009": None,
        "large/00010": third,
    }
    assert len(found) == 6
    assert scene.idle() == []
    again = _committed(scene.theirs, Put("large/00009", {}, ABSENT))
    assert scene.idle() == [("large/00009", again)]


def test_others_between_two_commits_of_this_engine_are_not_missed(scene: Scene):
    """What another engine commits is found although this one commits right after it, before anybody looked."""
    scene.ask(Enter(Watch(["d/a", "c"])))
    scene.idle()
    for n in range(5):
        _committed(scene.ours, Put("elsewhere/a", {"n": n}))
        theirs = _committed(scene.theirs, Put("d/a", {"n": n}), Put("c/b", {"n": n}))
        ours = _committed(scene.ours, Put("c/c", {"n": n}))
        assert scene.ask(Moved([("c", "c/c")])).moves == [("c", "c/c", ours)]
        assert dict(scene.idle()) == {"d/a": theirs, "c/b": theirs}


def test_looking_takes_a_small_part_of_a_core(scene: Scene):
    """After a look that took long the next one waits in proportion, and then tells all that came meanwhile."""
    _committed(scene.ours, *_many("large", LARGE + 50))
    scene.ask(Enter(Watch(["large", "d/a"])))
    scene.idle()
    scene.time.look_seconds = 0.01
    first = _committed(scene.theirs, Put("d/a", {}), Put("large/a", {}))
    assert dict(scene.idle()) == {"d/a": first, "large/a": first}
    for n in range(3):
        last = _committed(scene.theirs, Put("d/a", {"n": n}), Put("large/a", {"n": n}))
        assert scene.idle() == []
    scene.time.now += REST * 0.01 - 4 * POLL_SECONDS
    assert scene.idle() == []
    assert dict(scene.idle(2 * POLL_SECONDS)) == {"d/a": last, "large/a": last}


def test_while_all_rests_the_file_is_left_alone(scene: Scene):
    """Between two looks at a large collection, what others commit meanwhile costs not one statement."""
    _committed(scene.ours, *_many("large", LARGE + 50))
    scene.ask(Enter(Watch(["large"])))
    scene.idle()
    scene.time.look_seconds = 0.01
    _committed(scene.theirs, Put("large/a", {}))
    assert [path for path, _ in scene.idle()] == ["large/a"]
    last = _committed(scene.theirs, Put("large/a", {}))
    assert scene.idle() == []
    scene.statements.clear()
    for n in range(20):
        last = _committed(scene.theirs, Put("large/a", {"n": n}))
        assert scene.idle() == []
    assert scene.statements == []
    assert scene.watcher.pulse() == pytest.approx(REST * 0.01 - 21 * POLL_SECONDS)
    assert scene.idle(REST * 0.01) == [("large/a", last)]


def test_large_collections_take_turns_and_documents_do_not_wait_for_them(scene: Scene):
    """With each look at the documents one large collection is looked at, the one that waited for longest."""
    for collection in ("one", "two"):
        _committed(scene.ours, *_many(collection, LARGE + 50))
    scene.ask(Enter(Watch(["one", "two", "d/a"])))
    scene.idle()
    scene.idle()
    scene.time.look_seconds = 0.001
    turns: list[str] = []
    for n in range(8):
        revision = _committed(scene.theirs, *(Put(path, {"n": n}) for path in ("one/a", "two/a", "d/a")))
        (document, large) = scene.idle(REST * 0.001)
        assert document == ("d/a", revision)
        assert large[1] == revision
        turns.append(large[0])
    assert turns == [*("one/a", "two/a")] * 4


def test_a_collection_that_grows_before_its_look_is_looked_at(scene: Scene):
    """What others have changed in a small collection is found, although this engine made it a large one meanwhile."""
    _committed(scene.ours, *_many("c", LARGE))
    scene.ask(Enter(Watch(["c"])))
    scene.idle()
    scene.time.look_seconds = 0.01
    first = _committed(scene.theirs, Put("c/00001", {}))
    assert scene.idle() == [("c/00001", first)]
    second = _committed(scene.theirs, Put("c/00002", {}))
    _committed(scene.ours, Put("elsewhere/a", {}))
    assert scene.idle() == []
    third = _committed(scene.ours, Put("c/new", {}))
    assert scene.ask(Moved([("c", "c/new")])).moves == [("c", "c/new", third)]
    assert scene.idle(REST * 0.01) == [("c/00002", second)]


def test_a_target_that_cannot_be_looked_at_leaves_the_others_alone(scene: Scene):
    """A path that SQLite does not take is the error of that watch, and nothing of it stays."""
    scene.ask(Enter(Watch(["d/a"])))
    with pytest.raises(UnicodeEncodeError):
        scene.ask(Enter(Watch(["d/a", "c", "d/\ud800"])))
    scene.idle()
    revision = _committed(scene.theirs, Put("d/a", {}), Put("c/a", {}))
    assert scene.idle() == [("d/a", revision)]


@anyio_test
async def test_a_look_that_fails_ends_the_watches(file: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the file cannot be looked at, each watch raises why, and a later one works."""

    def broken(*_: object) -> None:
        raise apsw.exception_for(apsw.SQLITE_IOERR_READ)

    with anyio.fail_after(HANG_SECONDS):
        async with _engine(file) as engine, _engine(file) as other:
            async with engine.watch("c/a") as changes, engine.watch("c") as collection:
                await until(changes, DocumentChange("c/a", None))
                with monkeypatch.context() as patch:
                    patch.setattr(Sight, "look_at_all_but_large", broken)
                    await other.commit([Put("c/a", {})])
                    for each in (changes, collection):
                        with pytest.raises(StoreUnavailable, match="SQLITE_IOERR"):
                            await anext(each)
            async with engine.watch("c/a") as changes:
                committed = await other.commit([Put("c/a", {})])
                await until(changes, DocumentChange("c/a", committed.revision))


@anyio_test
async def test_a_watch_that_is_left_leaves_nothing(file: Path):
    """Left by a break, an error, or a cancellation at any moment, a watch is gone, its targets too, without a word."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with _engine(file) as engine:
            committed = await engine.commit([Put("c/a", {})])
            async with engine.watch("c/a", "c") as changes:
                async for change in changes:
                    assert change == DocumentChange("c/a", committed.revision)
                    break
            with pytest.raises(ZeroDivisionError):
                async with engine.watch("c/a", "c"):
                    raise ZeroDivisionError
            for moment in range(12):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_watch_for_ever, engine)
                    for _ in range(moment):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
            watches = engine._watches
            assert watches._worker is not None
            await watches._worker.do(Leave(Watch([])))  # now the answers to all that entered are here
            await watches._worker.do(Leave(Watch([])))  # and now what was left upon them is left
            assert not watches._watches
            assert not watches._entered
            assert not watches._worker._serve.__self__._sight
        gc.collect()
    assert not caught, caught[0].message


async def _watch_for_ever(engine: SqliteEngine) -> None:
    async with engine.watch("c/a", "c") as changes:
        async for _ in changes:
            pass


@anyio_test
async def test_watches_share_one_thread_that_only_watches_have(file: Path):
    """The first watch starts a thread, later ones share it, and closing the engine ends it."""

    @contextmanager
    def started(*names: str) -> Iterator[None]:
        before = set(threading.enumerate())
        yield
        new = {each.name for each in set(threading.enumerate()) - before if each.name.startswith("tai-state")}
        assert new == {f"tai-state sqlite {name}" for name in names}

    others = set(threading.enumerate())
    with started():
        with started("reader", "writer"):
            engine = await _engine(file).__aenter__()
        with started("watcher"):
            for targets in (["c/a"], ["c/a", "c"], ["c/a"]):
                async with engine.watch(*targets):
                    pass
        for _ in range(3):
            with pytest.raises(RuntimeError, match="already open"):
                await engine.__aenter__()
        ended = [each for each in set(threading.enumerate()) - others if each.name.startswith("tai-state")]
        await engine.__aexit__(None, None, None)
        for thread in ended:
            thread.join(HANG_SECONDS)


@anyio_test
@pytest.mark.parametrize("paths", [["c/a"], ["c"], ["c", "c/a"]])
async def test_two_engines_tell_each_other_the_last_of_each_document(file: Path, paths: Sequence[str]):
    """However two engines on one file interleave their commits, each one's watch ends with what is stored."""
    with anyio.fail_after(HANG_SECONDS):
        async with _engine(file) as one, _engine(file) as other, one.watch(*paths) as changes:
            for n in range(40):
                writes: list[Write] = [Put("c/a", {"n": n}), Delete("c/b")]
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(one.commit, writes)
                    tasks.start_soon(other.commit, [Delete("c/a"), Put("c/b", {})] if n % 3 else writes)
                [document] = (await other.read(["c/a"])).documents
                if n % 5 == 0 and document is not None:
                    await until(changes, DocumentChange("c/a", document.revision))
            last = await other.commit([Put("c/a", {"n": "last"})])
            await until(changes, DocumentChange("c/a", last.revision))
            await other.commit([Delete("c/a")])
            await until(changes, DocumentChange("c/a", None))
