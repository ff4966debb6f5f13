"""Ids that cannot be stored are refused by every call, and those that look dangerous stay in their place."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

from tai_state import ANY, Columns, EveryEvents, InvalidId, NewEvent, StateStore
from tai_state.engines.api import Scan
from tai_state.engines.firestore.engine import FirestoreEngine
from tai_state.engines.memory import MemoryEngine
from tai_state.testing.mockfirestore import OWN_FIELD

from ..support.firestore import everything
from ..support.refusals import NOW, persister_of, unsaved
from ..support.stores import GOVERNOR, METADATA, CountingEngine, Dated, Places, collected

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """What is refused is refused before anything that knows of event loops."""
    return "asyncio"


VALID_IDS: dict[str, str] = {
    "plain": "alice",
    "one_character": "a",
    "space": " ",
    "spaces_around": "  alice  ",
    "tab": "\t",
    "newline": "a\nb",
    "carriage_return": "a\rb\r\n",
    "nul": "\x00",
    "nul_inside": "a\x00b",
    "escape": "\x1b[2J",
    "delete": "\x7f",
    "c1_control": "\x9b1m",
    "next_line": "a\x85b",
    "slash": "/",
    "slashes": "a/b",
    "slash_first": "/etc/passwd",
    "slash_last": "a/",
    "slashes_only": "///",
    "backslash": "..\\..\\a",
    "dot": ".",
    "dots": "..",
    "three_dots": "...",
    "dot_first": ".a",
    "up_and_out": "../../governors/other/states/x",
    "to_a_collection": "x/states/y",
    "reserved": "__x__",
    "reserved_empty": "____",
    "reserved_more": "___x___",
    "reserved_newline": "__a\nb__",
    "underscores": "__",
    "almost_reserved": "__x_",
    "tilde": "~",
    "like_an_event": "a~000000000001",
    "like_a_late_event": "a~999999999999",
    "tilde_first": "~a",
    "percent": "%",
    "percent_slash": "%2F",
    "percent_lower": "%2f",
    "percent_dot": "%2E",
    "percent_percent": "%252F",
    "percent_underscore": "%5F_x__",
    "percent_broken": "%zz",
    "percent_byte": "%FF",
    "plus": "a+b c",
    "question": "a?b=c&d#e",
    "quotes": "'; DROP TABLE documents; --",
    "double_quotes": 'a"b',
    "glob": "*[a-z]?",
    "like": "a%b_c",
    "dollar": "$.a",
    "braces": "{0} {governor}",
    "composed": "\u00e9",
    "decomposed": "e\u0301",
    "upper": "ALICE",
    "dotless": "İı",
    "sharp_s": "ß",
    "right_to_left": "\u202etxt.exe",
    "zero_width": "a\u200bb",
    "byte_order_mark": "\ufeffa",
    "no_character": "\uffff",
    "line_separator": "a\u2028b",
    "emoji": "👩\u200d👧",
    "beyond_the_planes": "\U0010ffff",
    "arabic_digits": "a~٠٠٠٠٠٠٠٠٠٠٠١",
    "no_break_space": "\u00a0",
    "number": "0",
    "negative": "-1",
    "option": "--yes",
    "none": "None",
    "null": "null",
    "as_long_as_can_be": "x" * 1_480,
    "long_in_bytes": "é" * 740,
    "long_once_escaped": "/" * 493,
}

INVALID_IDS: dict[str, Any] = {
    "empty": "",
    "too_long": "x" * 1_481,
    "far_too_long": "x" * 100_000,
    "too_long_in_bytes": "é" * 741,
    "too_long_once_escaped": "~" * 494,
    "high_surrogate": "\ud800",
    "low_surrogate": "a\udfffb",
    "swapped_surrogates": "\udc00\ud800",
    "undecodable_byte": b"\xff".decode(errors="surrogateescape"),
    "none": None,
    "zero": 0,
    "number": 5,
    "true": True,
    "float": 1.5,
    "nan": math.nan,
    "bytes": b"alice",
    "tuple": ("alice",),
    "list": ["alice"],
    "dict": {"alice": 1},
    "set": {"alice"},
    "object": object(),
    "path": Path("alice"),
    "uuid": uuid.UUID(int=1),
    "metadata": METADATA,
    "class": str,
}

StateCall = Callable[[StateStore, Any, Any], Any]


async def _first(watch: Any) -> Any:
    async with watch as values:
        return await anext(values)


STATE_CALLS: dict[str, StateCall] = {
    "save_state": lambda store, g, s: store.save_state(g, s, {"n": 1}, METADATA),
    "update_state": lambda store, g, s: store.update_state(g, s, {"n": 1}, METADATA, expected=ANY),
    "delete_state": lambda store, g, s: store.delete_state(g, s, METADATA, expected=ANY),
    "log_event": lambda store, g, s: store.log_event(g, s, "noted", METADATA),
    "get_state": lambda store, g, s: store.get_state(g, s),
    "exists": lambda store, g, s: store.exists(g, s),
    "batch_get_states": lambda store, g, s: store.batch_get_states(g, ["fine", s]),
    "list_states": lambda store, g, s: collected(store.list_states(g, after=s)),
    "get_events": lambda store, g, s: collected(store.get_events(g, s)),
    "watch": lambda store, g, s: _first(store.watch(g, s)),
    "create_snapshot": lambda store, g, s: store.create_snapshot(g, s),
    "list_snapshots": lambda store, g, s: store.list_snapshots(g, s),
    "load_snapshot": lambda store, g, s: store.load_snapshot(g, s),
    "store.get_state_at": lambda store, g, s: store.get_state_at(g, s, 1),
    "handle.get": lambda store, g, s: store.state(g, s).get(),
    "handle.save": lambda store, g, s: store.state(g, s).save({"n": 1}, METADATA),
    "handle.update": lambda store, g, s: store.state(g, s).update(lambda data: data, METADATA),
    "handle.delete": lambda store, g, s: store.state(g, s).delete(METADATA, expected=ANY),
    "handle.at": lambda store, g, s: store.state(g, s).at(1),
    "handle.history": lambda store, g, s: collected(store.state(g, s).history()),
    "handle.watch": lambda store, g, s: _first(store.state(g, s).watch()),
    "log_transition": lambda store, g, s: persister_of(store).log_transition(g, None, unsaved(g, s), "made", METADATA),
    "record": lambda store, g, s: persister_of(store).record(g, s, [NewEvent("add", 1)], METADATA, expected=ANY),
    "load_state": lambda store, g, s: persister_of(store).load_state(g, s),
    "get_state_at": lambda store, g, s: persister_of(store).get_state_at(g, s, 1),
    "replay": lambda store, g, s: collected(persister_of(store).replay(g, s)),
}

GOVERNOR_CALLS: dict[str, Callable[[StateStore, Any], Any]] = {
    "list_states": lambda store, g: collected(store.list_states(g)),
    "count_states": lambda store, g: store.count_states(g),
    "find_states": lambda store, g: collected(store.find_states(g, {"n": 1})),
    "get_all_events": lambda store, g: collected(store.get_all_events(g)),
    "get_events_between": lambda store, g: collected(store.get_events_between(g, NOW, NOW)),
    "batch_get_states": lambda store, g: store.batch_get_states(g, ["s"]),
    "watch": lambda store, g: _first(store.watch(g)),
    "recover": lambda store, g: persister_of(store).recover(g),
    "validate_consistency": lambda store, g: persister_of(store).validate_consistency(g),
    "cleanup_old_data": lambda store, g: persister_of(store).cleanup_old_data(g, keep=timedelta(days=1)),
    "export_history": lambda store, g: persister_of(store).export_history(g, Path("never.jsonl")),
    "import_csv": lambda store, g: persister_of(store).import_csv(g, Path("never.csv"), Columns("a", ("b",), "c")),
}

EVENT_ID_CALLS: dict[str, Callable[[StateStore, Any], Any]] = {
    "save_state": lambda store, e: store.save_state(GOVERNOR, "new", {}, METADATA, event_id=e),
    "update_state": lambda store, e: store.update_state(GOVERNOR, "s", {}, METADATA, expected=ANY, event_id=e),
    "delete_state": lambda store, e: store.delete_state(GOVERNOR, "s", METADATA, expected=ANY, event_id=e),
    "log_event": lambda store, e: store.log_event(GOVERNOR, "s", "noted", METADATA, event_id=e),
    "handle.save": lambda store, e: store.state(GOVERNOR, "new").save({}, METADATA, event_id=e),
    "handle.update": lambda store, e: store.state(GOVERNOR, "s").update(lambda data: data, METADATA, event_id=e),
    "handle.delete": lambda store, e: store.state(GOVERNOR, "s").delete(METADATA, expected=ANY, event_id=e),
    "log_transition": lambda store, e: persister_of(store).log_transition(
        GOVERNOR, None, unsaved(GOVERNOR, "new"), "made", METADATA, event_id=e
    ),
    "record": lambda store, e: persister_of(store).record(
        GOVERNOR, "s", [NewEvent("add", 1, event_id="fine"), NewEvent("add", 1, event_id=e)], METADATA, expected=ANY
    ),
}


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in INVALID_IDS.items()])
async def test_an_id_that_cannot_be_stored(places: Places, value: Any) -> None:
    """Every call that takes an id refuses one that cannot be stored, before it sends anything."""
    place = places.new()
    calls: list[Callable[[StateStore], Any]] = []
    for with_both in STATE_CALLS.values():
        calls.append(lambda store, call=with_both: call(store, GOVERNOR, value))
        calls.append(lambda store, call=with_both: call(store, value, "s"))
    for with_governor in GOVERNOR_CALLS.values():
        calls.append(lambda store, call=with_governor: call(store, value))
    if value is not None:
        for with_event_id in EVENT_ID_CALLS.values():
            calls.append(lambda store, call=with_event_id: call(store, value))
    engine = CountingEngine(place.engine())
    async with place.store(engine, indexed=("n",)) as store:
        await store.save_state(GOVERNOR, "s", {"n": 1}, METADATA)
        engine.reset()
        for call in calls:
            if value is None and call in _without_an_id(calls):
                continue
            with pytest.raises(InvalidId) as caught:
                await call(store)
            assert caught.value.what in {"governor_id", "state_id", "event_id", "ids", "after"}
            assert len(str(caught.value)) < 200
            assert str(caught.value).isprintable()
        assert engine.counts.commits == []


def _without_an_id(calls: list[Callable[[StateStore], Any]]) -> list[Callable[[StateStore], Any]]:
    """The calls in which None stands for no id: all governors, or the first state."""
    names = [*STATE_CALLS]
    governors = len(STATE_CALLS) * 2
    of_all = ("recover", "validate_consistency", "cleanup_old_data")
    optional = [governors + [*GOVERNOR_CALLS].index(name) for name in of_all]
    return [calls[2 * names.index("list_states")], *(calls[index] for index in optional)]


@pytest.mark.parametrize("identifier", [pytest.param(value, id=name) for name, value in VALID_IDS.items()])
async def test_an_id_that_looks_dangerous(places: Places, identifier: str) -> None:
    """Every other id is found exactly as it was given, as governor, state and event, and stays in its collection."""
    place = places.new()
    async with place.store(indexed=("n",)) as store:
        g = s = identifier
        saved = await store.save_state(g, s, {"n": 1}, METADATA, event_id=identifier)
        assert (saved.governor_id, saved.state_id) == (g, s)
        assert await store.save_state(g, s, {"n": 1}, METADATA, event_id=identifier) == saved
        handle = store.state(g, s)
        await handle.update(lambda data: {"n": data["n"] + 1}, METADATA)
        logged = await store.log_event(g, s, "noted", METADATA, payload=identifier)
        assert (logged.governor_id, logged.state_id, logged.payload) == (g, s, identifier)
        persister = persister_of(store)
        before = await store.get_state(g, s)
        moved = await persister.log_transition(g, before, before.with_data({"n": 5}), "moved", METADATA)
        [added] = await persister.record(g, s, [NewEvent("add", 2)], METADATA, expected=4)
        assert (moved.state_id, added.to_state) == (s, {"n": 7})
        await store.create_snapshot(g, s)

        assert [each async for each in store.list_governors()] == [g]
        assert [each async for each in store.list_governors(after=g)] == []
        assert [each.state_id for each in await collected(store.list_states(g))] == [s]
        assert [each.state_id for each in await collected(store.list_states(g, after=s))] == []
        assert [each.state_id for each in await collected(store.find_states(g, {"n": 7}))] == [s]
        assert [*await store.batch_get_states(g, [s])] == [s]
        assert await store.exists(g, s)
        events = await collected(store.get_events(g, s))
        assert [(each.governor_id, each.state_id, each.version) for each in events] == [(g, s, n) for n in range(1, 6)]
        assert events[0].event_id == identifier
        assert [each.state_id for each in await collected(store.get_all_events(g))] == [s] * 5
        assert len(await collected(persister.replay(g, s))) == 5
        assert (await _first(store.watch(g, s))).state_id == s
        assert (await _first(store.watch(g))).state_id == s
        assert (await persister.get_state_at(g, s, 2)).data == {"n": 2}
        assert (await persister.load_state(g, s)).recovered is False
        assert await store.list_snapshots(g, s) == [5]
        loaded = await store.load_snapshot(g, s)
        assert loaded is not None
        assert loaded.state_id == s
        assert (await persister.recover(g)).sound == 1
        assert (await persister.validate_consistency()).consistent
        await handle.delete(METADATA, expected=5)
        assert not await store.exists(g, s)

        found = await _documents(store)
        [governor] = [path.rpartition("/")[2] for path in found if path.count("/") == 1 and path != "meta/store"]
        assert "/" not in governor
        assert governor not in {".", ".."}
        assert not re.fullmatch("__.*__", governor)
        assert governor.isascii() or governor == identifier.replace("%", "%25").replace("~", "%7E")
        below = {path.removeprefix(f"governors/{governor}/") for path in found if path.count("/") > 1}
        versions = {f"events/{governor}~{version:012d}" for version in range(1, 7)}
        assert below == {f"states/{governor}", f"ids/{governor}", f"snapshots/{governor}~000000000005", *versions}


async def _documents(store: StateStore) -> list[str]:
    """The paths of all documents in the store's engine, wherever they are."""
    engine: Any = store.core.engine._engine if isinstance(store.core.engine, Dated) else store.core.engine
    if isinstance(engine, MemoryEngine):
        if engine.capabilities.name == "mockfirestore":
            return sorted(_in_mock(engine._documents._root(), ""))
        return sorted(engine._documents._documents)
    if isinstance(engine, FirestoreEngine):
        return await everything(engine)
    connection = apsw.Connection(engine.path, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return sorted(path for (path,) in connection.execute("SELECT path FROM documents"))
    finally:
        connection.close()


def _in_mock(entry: dict[str, Any], path: str) -> Iterator[str]:
    if OWN_FIELD in entry:
        yield path
    for name, below in entry.items():
        if isinstance(below, dict):
            yield from _in_mock(below, f"{path}/{name}".removeprefix("/"))


async def test_no_two_ids_are_one(places: Places, tmp_path: Path) -> None:
    """All the dangerous ids side by side, each with its own data, also after an export and a restore."""
    place, other = places.new(), places.new()
    async with place.store(snapshots=EveryEvents(2)) as store:
        for number, (name, identifier) in enumerate(VALID_IDS.items()):
            await store.save_state(GOVERNOR, identifier, {"name": name}, METADATA, event_id=identifier)
            await store.update_state(GOVERNOR, identifier, {"name": name, "n": number}, METADATA, expected=1)
            await store.save_state(identifier, "s", {"name": name}, METADATA)
        await persister_of(store).export_history(GOVERNOR, tmp_path / "export.jsonl")
        assert {each async for each in store.list_governors()} == {GOVERNOR, *VALID_IDS.values()}
        for name, identifier in VALID_IDS.items():
            assert (await store.get_state(identifier, "s")).data == {"name": name}
        assert (await persister_of(store).validate_consistency()).consistent
    async with other.store() as store:
        await persister_of(store).import_history(tmp_path / "export.jsonl")
        states = await collected(store.list_states(GOVERNOR))
        assert {each.state_id: each.data for each in states} == {
            identifier: {"name": name, "n": number} for number, (name, identifier) in enumerate(VALID_IDS.items())
        }
        for identifier in VALID_IDS.values():
            events = await collected(store.get_events(GOVERNOR, identifier))
            assert [(each.state_id, each.version) for each in events] == [(identifier, 1), (identifier, 2)]
        assert len([each async for each in store.core.engine.scan(Scan(f"governors/{GOVERNOR}/states"))]) == len(
            VALID_IDS
        )
        assert (await persister_of(store).validate_consistency(GOVERNOR)).consistent
