"""Hostile input: ids, data, times, addresses and files that do not belong are refused, or kept in their place."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import math
import re
import shutil
import types
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import apsw
import msgspec
import pytest

from tai_state import (
    ANY,
    ChangeMetadata,
    Columns,
    CorruptDocument,
    EveryEvents,
    IncompatibleFormat,
    InvalidData,
    InvalidId,
    NewEvent,
    StateMachinePersister,
    StateSnapshot,
    StateStore,
    StoreNotFound,
    StoreUnavailable,
    TaiStateError,
    UnindexedField,
    UnknownStore,
    open_store,
)
from tai_state.engines.api import Scan
from tai_state.engines.firestore.engine import FirestoreEngine
from tai_state.errors import DocumentTooLarge, Inconsistent
from tai_state.testing.mockfirestore import OWN_FIELD, MockFirestoreEngine

from .support.firestore import everything
from .support.stores import GOVERNOR, METADATA, CountingEngine, Dated, Place, Places, collected, dump

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SECRET = "correct-horse-battery-staple"


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

REDUCERS = {"add": lambda state, event: {"n": (state or {"n": 0})["n"] + event.payload}}

StateCall = Callable[[StateStore, Any, Any], Any]


async def _first(values: Any) -> Any:
    async with aclosing(values):
        return await anext(values)


async def _unheard(_: Any) -> None:
    """Acknowledgements that nobody listens to."""


def _persister(store: StateStore) -> StateMachinePersister:
    return StateMachinePersister(store, REDUCERS)


def _unsaved(governor: Any, state: Any) -> StateSnapshot[dict[str, Any]]:
    return StateSnapshot.unsaved(governor, state, {"n": 1})


STATE_CALLS: dict[str, StateCall] = {
    "save_state": lambda store, g, s: store.save_state(g, s, {"n": 1}, METADATA),
    "update_state": lambda store, g, s: store.update_state(g, s, {"n": 1}, METADATA, expected=ANY),
    "delete_state": lambda store, g, s: store.delete_state(g, s, METADATA, expected=ANY),
    "log_event": lambda store, g, s: store.log_event(g, s, "noted", METADATA),
    "get_state": lambda store, g, s: store.get_state(g, s),
    "exists": lambda store, g, s: store.exists(g, s),
    "batch_get_states": lambda store, g, s: store.batch_get_states(g, ["fine", s]),
    "list_states": lambda store, g, s: collected(store.list_states(g, start=s)),
    "get_events": lambda store, g, s: collected(store.get_events(g, s)),
    "watch": lambda store, g, s: _first(store.watch(g, s)),
    "create_snapshot": lambda store, g, s: store.create_snapshot(g, s),
    "list_snapshots": lambda store, g, s: store.list_snapshots(g, s),
    "load_snapshot": lambda store, g, s: store.load_snapshot(g, s),
    "state_at": lambda store, g, s: store.state_at(g, s, 1),
    "handle.get": lambda store, g, s: store.state(g, s).get(),
    "handle.save": lambda store, g, s: store.state(g, s).save({"n": 1}, METADATA),
    "handle.update": lambda store, g, s: store.state(g, s).update(lambda data: data, METADATA),
    "handle.delete": lambda store, g, s: store.state(g, s).delete(METADATA, expected=ANY),
    "handle.at": lambda store, g, s: store.state(g, s).at(1),
    "handle.history": lambda store, g, s: collected(store.state(g, s).history()),
    "handle.watch": lambda store, g, s: _first(store.state(g, s).watch()),
    "log_transition": lambda store, g, s: _persister(store).log_transition(g, None, _unsaved(g, s), "made", METADATA),
    "record": lambda store, g, s: _persister(store).record(g, s, [NewEvent("add", 1)], METADATA, expected=ANY),
    "load_state": lambda store, g, s: _persister(store).load_state(g, s),
    "get_state_at": lambda store, g, s: _persister(store).get_state_at(g, s, 1),
    "replay": lambda store, g, s: collected(_persister(store).replay(g, s)),
}

GOVERNOR_CALLS: dict[str, Callable[[StateStore, Any], Any]] = {
    "list_states": lambda store, g: collected(store.list_states(g)),
    "count_states": lambda store, g: store.count_states(g),
    "find_states": lambda store, g: collected(store.find_states(g, {"n": 1})),
    "get_all_events": lambda store, g: collected(store.get_all_events(g)),
    "get_events_between": lambda store, g: collected(store.get_events_between(g, NOW, NOW)),
    "batch_get_states": lambda store, g: store.batch_get_states(g, ["s"]),
    "watch": lambda store, g: _first(store.watch(g)),
    "recover": lambda store, g: _persister(store).recover(g),
    "validate_consistency": lambda store, g: _persister(store).validate_consistency(g),
    "cleanup_old_data": lambda store, g: _persister(store).cleanup_old_data(g, keep=timedelta(days=1)),
    "export_history": lambda store, g: _persister(store).export_history(g, Path("never.jsonl")),
    "import_csv": lambda store, g: _persister(store).import_csv(
        g, Path("never.csv"), Columns("a", ("b",), "c"), _unheard
    ),
}

EVENT_ID_CALLS: dict[str, Callable[[StateStore, Any], Any]] = {
    "save_state": lambda store, e: store.save_state(GOVERNOR, "new", {}, METADATA, event_id=e),
    "update_state": lambda store, e: store.update_state(GOVERNOR, "s", {}, METADATA, expected=ANY, event_id=e),
    "delete_state": lambda store, e: store.delete_state(GOVERNOR, "s", METADATA, expected=ANY, event_id=e),
    "log_event": lambda store, e: store.log_event(GOVERNOR, "s", "noted", METADATA, event_id=e),
    "handle.save": lambda store, e: store.state(GOVERNOR, "new").save({}, METADATA, event_id=e),
    "handle.update": lambda store, e: store.state(GOVERNOR, "s").update(lambda data: data, METADATA, event_id=e),
    "handle.delete": lambda store, e: store.state(GOVERNOR, "s").delete(METADATA, expected=ANY, event_id=e),
    "log_transition": lambda store, e: _persister(store).log_transition(
        GOVERNOR, None, _unsaved(GOVERNOR, "new"), "made", METADATA, event_id=e
    ),
    "record": lambda store, e: _persister(store).record(
        GOVERNOR, "s", [NewEvent("add", 1, event_id="fine"), NewEvent("add", 1, event_id=e)], METADATA, expected=ANY
    ),
}


async def refused(
    place: Place, *calls: Callable[[StateStore], Awaitable[Any]], kind: type[TaiStateError] = InvalidData
) -> list[TaiStateError]:
    """The errors of calls on a store with one state: of this kind, one plain sentence each, and nothing was sent."""
    engine = CountingEngine(place.engine())
    errors: list[TaiStateError] = []
    async with place.store(engine, indexed=("n",)) as store:
        await store.update_state(GOVERNOR, "s", {"n": 1}, METADATA, expected=ANY)
        before = await dump(engine)
        for call in calls:
            engine.reset()
            with pytest.raises(TaiStateError) as caught:
                await call(store)
            if kind is not DocumentTooLarge:  # the engine itself knows its limit, and says so before it sends anything
                assert engine.counts.commits == []
            assert await dump(engine) == before
            errors.append(caught.value)
    for error in errors:
        assert type(error) is kind, repr(error)
        assert len(str(error)) < 400
        assert str(error).isprintable()
        assert SECRET not in str(error)
        assert SECRET not in str(error.fields())
    return errors


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
            assert caught.value.what in {"governor_id", "state_id", "event_id", "ids", "start"}
            assert len(str(caught.value)) < 200
            assert str(caught.value).isprintable()
        assert engine.counts.commits == []


def _without_an_id(calls: list[Callable[[StateStore], Any]]) -> list[Callable[[StateStore], Any]]:
    """The calls in which None stands for no id: all governors, or the first state."""
    names = [*STATE_CALLS]
    governors = len(STATE_CALLS) * 2
    optional = [governors + [*GOVERNOR_CALLS].index(name) for name in ("recover", "validate_consistency")]
    return [calls[2 * names.index("list_states")], *(calls[index] for index in optional)]


@pytest.mark.parametrize("identifier", [pytest.param(value, id=name) for name, value in VALID_IDS.items()])
async def test_an_id_that_looks_dangerous(places: Places, identifier: str) -> None:
    """Every other id is found exactly as it was given, as governor, state and event, and stays in its collection."""
    place = places.new()
    async with place.store(indexed=("n",)) as store:
        g = s = identifier
        saved = await store.save_state(g, s, {"n": 1}, METADATA, event_id=identifier)
        assert (saved.governor_id, saved.id) == (g, s)
        assert await store.save_state(g, s, {"n": 1}, METADATA, event_id=identifier) == saved
        handle = store.state(g, s)
        await handle.update(lambda data: {"n": data["n"] + 1}, METADATA)
        logged = await store.log_event(g, s, "noted", METADATA, payload=identifier)
        assert (logged.governor_id, logged.state_id, logged.payload) == (g, s, identifier)
        persister = _persister(store)
        before = await store.get_state(g, s)
        moved = await persister.log_transition(g, before, before.with_data({"n": 5}), "moved", METADATA)
        [added] = await persister.record(g, s, [NewEvent("add", 2)], METADATA, expected=4)
        assert (moved.state_id, added.to_state) == (s, {"n": 7})
        await store.create_snapshot(g, s)

        assert [each async for each in store.list_governors()] == [g]
        assert [each.id for each in await collected(store.list_states(g))] == [s]
        assert [each.id for each in await collected(store.list_states(g, start=s))] == [s]
        assert [each.id for each in await collected(store.find_states(g, {"n": 7}))] == [s]
        assert [*await store.batch_get_states(g, [s])] == [s]
        assert await store.exists(g, s)
        events = await collected(store.get_events(g, s))
        assert [(each.governor_id, each.state_id, each.version) for each in events] == [(g, s, n) for n in range(1, 6)]
        assert events[0].id == identifier
        assert [each.state_id for each in await collected(store.get_all_events(g))] == [s] * 5
        assert len(await collected(persister.replay(g, s))) == 5
        assert (await _first(store.watch(g, s))).id == s
        assert (await _first(store.watch(g))).id == s
        assert (await persister.get_state_at(g, s, 2)).data == {"n": 2}
        assert (await persister.load_state(g, s)).recovered is False
        assert await store.list_snapshots(g, s) == [5]
        loaded = await store.load_snapshot(g, s)
        assert loaded is not None
        assert loaded.id == s
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
    if isinstance(engine, MockFirestoreEngine):
        return sorted(_in_mock(engine._root(), ""))
    if isinstance(getattr(engine, "_documents", None), dict):
        return sorted(engine._documents)
    if isinstance(engine, FirestoreEngine):
        return await everything(engine)
    connection = apsw.Connection(engine._path, flags=apsw.SQLITE_OPEN_READONLY)
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
        await _persister(store).export_history(GOVERNOR, tmp_path / "export.jsonl")
        assert {each async for each in store.list_governors()} == {GOVERNOR, *VALID_IDS.values()}
        for name, identifier in VALID_IDS.items():
            assert (await store.get_state(identifier, "s")).data == {"name": name}
        assert (await _persister(store).validate_consistency()).consistent
    async with other.store() as store:
        await _persister(store).import_history(tmp_path / "export.jsonl")
        states = await collected(store.list_states(GOVERNOR))
        assert {each.id: each.data for each in states} == {
            identifier: {"name": name, "n": number} for number, (name, identifier) in enumerate(VALID_IDS.items())
        }
        for identifier in VALID_IDS.values():
            events = await collected(store.get_events(GOVERNOR, identifier))
            assert [(each.state_id, each.version) for each in events] == [(identifier, 1), (identifier, 2)]
        assert len([each async for each in store.core.engine.scan(Scan(f"governors/{GOVERNOR}/states"))]) == len(
            VALID_IDS
        )
        assert (await _persister(store).validate_consistency(GOVERNOR)).consistent


def _deep(levels: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = SECRET
    for _ in range(levels):
        value = wrap(value)
    return value


def _cycle(value: Any) -> Any:
    if isinstance(value, list):
        value.append(value)
    else:
        value["again"] = value
    return value


@dataclasses.dataclass
class Card:
    """No JSON, though it could be turned into some."""

    number: str = SECRET


NO_JSON: dict[str, Any] = {
    "nan": math.nan,
    "infinity": math.inf,
    "minus_infinity": -math.inf,
    "nan_inside": [{"a": [1, math.nan]}],
    "set": {SECRET},
    "frozenset": frozenset({SECRET}),
    "tuple": (SECRET,),
    "named_tuple": collections.namedtuple("Pair", "a b")(SECRET, 1),  # noqa: PYI024
    "deque": collections.deque([SECRET]),
    "bytes": SECRET.encode(),
    "bytearray": bytearray(SECRET.encode()),
    "memoryview": memoryview(SECRET.encode()),
    "datetime": NOW,
    "date": date(2026, 3, 1),
    "timedelta": timedelta(1),
    "decimal": decimal.Decimal("1.50"),
    "complex": 1j,
    "uuid": uuid.UUID(int=1),
    "path": Path(SECRET),
    "dataclass": Card(),
    "struct": METADATA,
    "raw_json": msgspec.Raw(b'"x"'),
    "mapping": types.MappingProxyType({"a": SECRET}),
    "user_dict": collections.UserDict({"a": SECRET}),
    "function": len,
    "class": str,
    "object": object(),
    "exception": ValueError(SECRET),
    "generator": (each for each in [SECRET]),
    "ellipsis": ...,
    "number_key": {1: SECRET},
    "none_key": {None: SECRET},
    "true_key": {True: SECRET},
    "bytes_key": {b"a": SECRET},
    "tuple_key": {("a", "b"): SECRET},
    "mixed_keys": {"a": SECRET, 1: SECRET},
    "surrogate": SECRET + "\ud800",
    "surrogate_key": {SECRET + "\udfff": 1},
    "surrogate_deep": [[{"a": SECRET + "\ud800"}]],
    "list_in_itself": _cycle([]),
    "object_in_itself": _cycle({}),
    "deep_list": _deep(10_000, lambda value: [value]),
    "deep_object": _deep(10_000, lambda value: {"a": value}),
    "a_little_too_deep": _deep(201, lambda value: [value]),
    "huge_number": 10**5_000,
}

DATA_CALLS: dict[str, Callable[[StateStore, Any], Any]] = {
    "save_state": lambda store, value: store.save_state(GOVERNOR, "new", {"a": value}, METADATA),
    "update_state": lambda store, value: store.update_state(GOVERNOR, "s", {"a": value}, METADATA, expected=1),
    "log_event": lambda store, value: store.log_event(GOVERNOR, "s", "noted", METADATA, payload=value),
    "handle.save": lambda store, value: store.state(GOVERNOR, "new").save({"a": value}, METADATA),
    "handle.update": lambda store, value: store.state(GOVERNOR, "s").update(lambda _: {"a": value}, METADATA),
    "record": lambda store, value: _persister(store).record(
        GOVERNOR, "s", [NewEvent("add", 1), NewEvent("other", value)], METADATA, expected=1
    ),
    "reducer": lambda store, value: StateMachinePersister(store, {"add": lambda *_: {"a": value}}).record(
        GOVERNOR, "s", [NewEvent("add", 1)], METADATA, expected=1
    ),
    "log_transition": lambda store, value: _persister(store).log_transition(
        GOVERNOR, None, StateSnapshot.unsaved(GOVERNOR, "new", {"a": value}), "made", METADATA
    ),
    "context": lambda store, value: store.save_state(GOVERNOR, "new", {}, ChangeMetadata("ana", "why", {"a": value})),
    "context_of_a_deletion": lambda store, value: store.delete_state(
        GOVERNOR, "s", ChangeMetadata("ana", "why", {"a": value}), expected=1
    ),
}


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in NO_JSON.items()])
async def test_data_that_is_no_json(places: Places, value: Any) -> None:
    """Whatever is no plain JSON is refused wherever data goes in, without a word of the data, and nothing is sent."""
    calls = [partial(call, value=value) for call in DATA_CALLS.values()]
    for name, error in zip(DATA_CALLS, await refused(places.new(), *calls), strict=True):
        assert "JSON" in str(error) or "nested" in str(error) or "itself" in str(error) or "64" in str(error), name


async def test_json_that_looks_dangerous(places: Places) -> None:
    """What is JSON comes back exactly: large numbers, odd keys, control characters, the deepest that is allowed."""
    data = {
        "numbers": [2**63, 2**64, -(2**63) - 1, 10**300, 0, -0.0, 1.0, 1e-320, 1.7976931348623157e308, True],
        "texts": [
            "\x00",
            "\x1b[2J",
            "\u202e",
            "\u2028",
            "\ufeff",
            "👩\u200d👧",
            "é",
            "e\u0301",
            "</script>",
            "\\u0000",
            "",
        ],
        "": {"": {"": None}},
        "a.b": {"$": 1, "__proto__": {}, "a/b": 1, "~": 2, "%2F": 3, "\x00": 4},
        "deep": _deep(190, lambda value: [value]),
    }
    async with places.new().store() as store:
        await store.save_state(GOVERNOR, "s", data, METADATA)
        found = (await store.get_state(GOVERNOR, "s")).data
        assert found == data
        assert [type(each) for each in found["numbers"]] == [type(each) for each in data["numbers"]]
        event = await store.log_event(GOVERNOR, "s", "\x00\n", ChangeMetadata("\x1b", "", data), payload=data)
        assert (event.action, event.metadata.context, event.payload) == ("\x00\n", data, data)
        assert (await _persister(store).validate_consistency()).consistent


@pytest.mark.parametrize("name", DATA_CALLS)
async def test_data_that_is_too_large(places: Places, name: str) -> None:
    """Five megabytes are refused with the limit and the document's path, before anything is sent."""
    call = partial(DATA_CALLS[name], value=SECRET * 200_000)
    [error] = await refused(places.new(), call, kind=DocumentTooLarge)
    assert isinstance(error, DocumentTooLarge)
    assert error.size > error.limit > 1_000_000
    assert error.path.startswith(f"governors/{GOVERNOR}/")


@pytest.mark.parametrize("data", [None, [], [{}], "text", 5, True, (), {"a"}, METADATA, Card()], ids=repr)
async def test_data_that_is_no_object(places: Places, data: Any) -> None:
    """A state's data is a JSON object and nothing else."""
    errors = await refused(
        places.new(),
        lambda store: store.save_state(GOVERNOR, "new", data, METADATA),
        lambda store: store.state(GOVERNOR, "new").save(data, METADATA),
        lambda store: _persister(store).log_transition(
            GOVERNOR, None, StateSnapshot.unsaved(GOVERNOR, "new", data), "made", METADATA
        ),
    )
    for error in errors:
        assert "JSON object" in str(error)


@pytest.mark.parametrize("expected", [-1, 10**12, 1.0, "1", True, None, [], METADATA, {"version": 1}], ids=repr)
async def test_expectations_that_are_none(places: Places, expected: Any) -> None:
    """What a writer expects is a version, a snapshot or one of the named expectations."""
    errors = await refused(
        places.new(),
        lambda store: store.save_state(GOVERNOR, "s", {}, METADATA, expected=expected),
        lambda store: store.update_state(GOVERNOR, "s", {}, METADATA, expected=expected),
        lambda store: store.delete_state(GOVERNOR, "s", METADATA, expected=expected),
        lambda store: store.log_event(GOVERNOR, "s", "noted", METADATA, expected=expected),
        lambda store: _persister(store).record(GOVERNOR, "s", [NewEvent("add", 1)], METADATA, expected=expected),
    )
    for error in errors:
        assert "expected must be" in str(error)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(datetime(2026, 3, 1), id="naive"),  # noqa: DTZ001
        pytest.param(datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), id="before_all_time"),
        pytest.param(datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))), id="after_all_time"),
        pytest.param("2026-03-01T00:00:00Z", id="text"),
        pytest.param(1_700_000_000, id="number"),
        pytest.param(date(2026, 3, 1), id="date"),
    ],
)
async def test_times_that_are_none(places: Places, moment: Any) -> None:
    """A time without an offset could be any moment of a day, and one beyond the calendar is none."""
    errors = await refused(
        places.new(),
        lambda store: store.save_state(GOVERNOR, "new", {}, METADATA, timestamp=moment),
        lambda store: store.log_event(GOVERNOR, "s", "noted", METADATA, timestamp=moment),
        lambda store: collected(store.get_events_between(GOVERNOR, moment, NOW)),
        lambda store: collected(store.get_events_between(GOVERNOR, NOW, moment)),
        lambda store: _persister(store).record(
            GOVERNOR, "s", [NewEvent("add", 1, timestamp=moment)], METADATA, expected=1
        ),
    )
    for error in errors:
        assert "time" in str(error)


@pytest.mark.parametrize("version", [0, -1, 1.0, "1", True, None, [], datetime(2026, 3, 1)], ids=repr)  # noqa: DTZ001
async def test_versions_that_are_none(places: Places, version: Any) -> None:
    """A version to travel to is 1 or more, or a time with an offset."""
    errors = await refused(
        places.new(),
        lambda store: store.state_at(GOVERNOR, "s", version),
        lambda store: store.state(GOVERNOR, "s").at(version),
        lambda store: _persister(store).get_state_at(GOVERNOR, "s", version),
    )
    for error in errors:
        assert "with an offset" in str(error) or isinstance(version, datetime)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        "ana",
        {"changed_by": "ana", "reason": "why"},
        ("ana", "why"),
        ChangeMetadata,
        ChangeMetadata(None, "why"),  # type: ignore[arg-type]
        ChangeMetadata(5, "why"),  # type: ignore[arg-type]
        ChangeMetadata("ana", b"why"),  # type: ignore[arg-type]
        ChangeMetadata("ana", ["why"]),  # type: ignore[arg-type]
        ChangeMetadata("ana\ud800", "why"),
        ChangeMetadata("ana", "\udfffwhy"),
        ChangeMetadata("ana", "why", [1]),  # type: ignore[arg-type]
        ChangeMetadata("ana", "why", "context"),  # type: ignore[arg-type]
        ChangeMetadata("ana", "why", {1: 2}),  # type: ignore[dict-item]
        ChangeMetadata("ana", "why", None),  # type: ignore[arg-type]
        ChangeMetadata("ana", "why", []),  # type: ignore[arg-type]
    ],
    ids=ascii,
)
async def test_metadata_that_is_none(places: Places, metadata: Any) -> None:
    """Metadata says who and why as text, and anything else as a JSON object."""
    errors = await refused(
        places.new(),
        lambda store: store.save_state(GOVERNOR, "new", {}, metadata),
        lambda store: store.delete_state(GOVERNOR, "s", metadata, expected=1),
        lambda store: store.log_event(GOVERNOR, "s", "noted", metadata),
        lambda store: _persister(store).record(GOVERNOR, "s", [NewEvent("add", 1)], metadata, expected=1),
    )
    for error in errors:
        assert "metadata" in str(error)


@pytest.mark.parametrize("action", [None, 5, b"save", ["save"], "\ud800"], ids=ascii)
async def test_actions_that_are_none(places: Places, action: Any) -> None:
    """An action is text."""
    errors = await refused(
        places.new(),
        lambda store: store.save_state(GOVERNOR, "new", {}, METADATA, action=action),
        lambda store: store.log_event(GOVERNOR, "s", action, METADATA),
        lambda store: _persister(store).record(GOVERNOR, "s", [NewEvent(action)], METADATA, expected=1),
    )
    for error in errors:
        assert "action" in str(error)


@pytest.mark.parametrize(
    "events",
    [[], None, ["add"], [METADATA], [NewEvent("add", 1), None], [NewEvent("add", 1, event_id="e")] * 2],
    ids=["none", "no_list", "text", "metadata", "one_missing", "one_id_twice"],
)
async def test_recordings_of_nothing(places: Places, events: Any) -> None:
    """What is recorded is at least one event, and no event id stands for two."""
    [error] = await refused(
        places.new(), lambda store: _persister(store).record(GOVERNOR, "s", events, METADATA, expected=1)
    )
    assert "event" in str(error)


@pytest.mark.parametrize("snapshots", [(None, None), ("s", None), (None, {"n": 1})], ids=repr)
async def test_transitions_between_what_are_no_states(places: Places, snapshots: tuple[Any, Any]) -> None:
    """A transition leads from a snapshot, or from none, to a snapshot."""
    [error] = await refused(
        places.new(), lambda store: _persister(store).log_transition(GOVERNOR, *snapshots, "moved", METADATA)
    )
    assert "StateSnapshot" in str(error)


async def test_a_transition_from_what_is_not_there(places: Places) -> None:
    """A transition from another state, or from data that does not stand, is refused, and quotes none of it."""

    async def from_another(store: StateStore) -> Any:
        other = StateSnapshot.unsaved(GOVERNOR, "other", {"a": SECRET})
        return await _persister(store).log_transition(GOVERNOR, other, _unsaved(GOVERNOR, "s"), "moved", METADATA)

    async def from_a_dream(store: StateStore) -> Any:
        before = (await store.get_state(GOVERNOR, "s")).with_data({"a": SECRET})
        return await _persister(store).log_transition(GOVERNOR, before, before, "moved", METADATA)

    await refused(places.new(), from_another, from_a_dream)


@pytest.mark.parametrize("field", ["nothing", "", "n.m", "'; --", "\x00", 5, None])
async def test_fields_that_are_not_indexed(places: Places, field: Any) -> None:
    """A query names fields that the store was opened with."""
    call = lambda store: collected(store.find_states(GOVERNOR, {field: 1}))  # noqa: E731
    await refused(places.new(), call, kind=UnindexedField)


@pytest.mark.parametrize(
    "address",
    [
        "memory",
        "memory:/",
        "memory://path",
        "memory://?colour=red",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite://host/x.db",
        "sqlite:///x.db?mode=ro",
        "SQLITE:///x.db",
        "mysql://localhost",
        "://",
        "C:\\store.db",
        "store.db",
        "\ud800://x",
        "memory://[",
        "sqlite:///a\x00b.db",
        "sqlite:///:memory:",
    ],
    ids=ascii,
)
async def test_addresses_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """An address that means nothing says which forms there are, and makes no file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownStore) as caught:
        async with open_store(address):
            pass
    assert "use" in str(caught.value) or "needs" in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "options",
    [
        {"root": "a"},
        {"namespace": "a"},
        {"root": "a", "namespace": "\ud800"},
        {"root": "x" * 1_481, "namespace": "a"},
        {"root": 5, "namespace": "a"},
    ],
    ids=lambda options: ascii(options)[:40],
)
def test_half_a_namespace(options: dict[str, Any]) -> None:
    """Root and namespace come both or not at all, and are ids like others."""
    with pytest.raises(InvalidId):
        open_store("memory://", **options)


def test_half_a_namespace_in_the_address() -> None:
    """The same holds for the options of an address."""
    with pytest.raises(InvalidId, match="both or neither"):
        open_store("memory://?root=a")


async def test_roots_that_look_dangerous(tmp_path: Path) -> None:
    """Stores under different roots share a file and see nothing of each other, whatever the roots are called."""
    url = f"sqlite:///{tmp_path}/store.db"
    prefixes = [("", ""), ("a", "b"), ("a/b", "c"), ("a", "b/c"), ("..", ".."), ("governors", "g"), ("__x__", "%2F")]
    for number, (root, namespace) in enumerate(prefixes):
        async with open_store(url, root=root, namespace=namespace) as store:
            await store.save_state("g", "s", {"n": number}, METADATA)
    for number, (root, namespace) in enumerate(prefixes):
        async with open_store(url, root=root, namespace=namespace, create=False) as store:
            assert (await store.get_state("g", "s")).data == {"n": number}
            assert (await store.get_stats()).versions == 1


@pytest.mark.parametrize(("schema", "upcasters"), [(2, {}), (1, {1: None}), (3, {1: None})])
def test_upcasters_that_do_not_fit(schema: int, upcasters: dict[int, Any]) -> None:
    """Each schema before the present one has exactly one step."""
    with pytest.raises(ValueError, match="upcast"):
        open_store("memory://", schema=schema, upcasters=upcasters)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a sound store: a state of three versions with a snapshot and a marker, and many more around it."""
    path = tmp_path_factory.mktemp("sound") / "store.db"

    async def fill() -> None:
        async with open_store(f"sqlite:///{path}", snapshots=EveryEvents(2)) as store:
            for version in range(3):
                await store.update_state("g", "s", {"n": version}, METADATA, expected=version, event_id=f"e{version}")
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(store.save_state, "g", f"t{number:03d}", {"text": "x" * 500}, METADATA)

    anyio.run(fill)
    return path


@pytest.fixture
def file(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound store's file, to be broken."""
    return shutil.copy(sound, tmp_path / "store.db")


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return [each.name for each in folder.iterdir()]


def content_of(path: Path) -> bytes:
    """What is in a file."""
    return path.read_bytes()


def overwrite(path: Path, content: bytes | bytearray) -> None:
    """Change what is in a file."""
    path.write_bytes(content)


def execute(path: Path, *statements: str) -> None:
    """Change a file behind the store's back."""
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()


FOREIGN: dict[str, tuple[type[TaiStateError], tuple[str, ...]]] = {
    "newer_file": (IncompatibleFormat, ("PRAGMA user_version = 99",)),
    "other_program": (IncompatibleFormat, ("PRAGMA application_id = 5",)),
    "newer_documents": (
        IncompatibleFormat,
        ("UPDATE documents SET fields = json_set(fields, '$.format', 99) WHERE path = 'meta/store'",),
    ),
    "store_document": (CorruptDocument, ("UPDATE documents SET fields = '[]' WHERE path = 'meta/store'",)),
    "counter_empty": (CorruptDocument, ("DELETE FROM counter",)),
    "counter_gone": (CorruptDocument, ("DROP TABLE counter",)),
    "documents_gone": (CorruptDocument, ("DROP TABLE documents",)),
    "column_renamed": (CorruptDocument, ("ALTER TABLE documents RENAME COLUMN revision TO rev",)),
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_files_that_are_not_ours(file: Path, name: str) -> None:
    """A file of another program, of a newer release, or without its tables is refused with a typed error, untouched."""
    kind, statements = FOREIGN[name]
    execute(file, *statements)
    before = content_of(file)
    with pytest.raises(kind) as caught:
        async with open_store(f"sqlite:///{file}"):
            pass
    assert isinstance(caught.value, Inconsistent)
    assert caught.value.path in {str(file), "meta/store"}
    assert content_of(file) == before


@pytest.mark.parametrize(
    "content", [b"plain text, " * 1_000, b"\x00" * 8_192, b"SQLite format 3\x00" + b"\xff" * 4_096]
)
async def test_files_that_are_no_databases(tmp_path: Path, content: bytes) -> None:
    """A file that is no database is refused with a typed error that names it, and not overwritten."""
    path = tmp_path / "store.db"
    overwrite(path, content)
    with pytest.raises(Inconsistent) as caught:
        async with open_store(f"sqlite:///{path}"):
            pass
    assert caught.value.path == str(path)
    assert content_of(path) == content


async def test_a_foreign_database(tmp_path: Path) -> None:
    """Another program's database is not made into a store."""
    path = tmp_path / "store.db"
    execute(path, "CREATE TABLE theirs (x)")
    with pytest.raises(IncompatibleFormat, match="another program"):
        async with open_store(f"sqlite:///{path}"):
            pass


async def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    """A folder, or a file in no folder, cannot be opened; where nothing may be made, the store is not found."""
    with pytest.raises(StoreUnavailable):
        async with open_store(f"sqlite:///{tmp_path}"):
            pass
    with pytest.raises(StoreUnavailable):
        async with open_store(f"sqlite:///{tmp_path}/no/store.db"):
            pass
    with pytest.raises(StoreNotFound):
        async with open_store(f"sqlite:///{tmp_path}/store.db", create=False):
            pass
    assert names(tmp_path) == []


async def test_a_damaged_page(file: Path) -> None:
    """Pages overwritten with rubbish end in a typed error that names the file; what comes back is never wrong data."""
    content = bytearray(content_of(file))
    for start in range(8 * 4_096, len(content), 3 * 4_096):
        content[start : start + 4_096] = b"\xa5" * 4_096
    overwrite(file, content)
    async with open_store(f"sqlite:///{file}") as store:
        with pytest.raises(CorruptDocument) as caught:
            await collected(store.get_all_events("g"))
    assert str(file) in caught.value.path


async def test_half_a_file(file: Path) -> None:
    """A file cut in half is refused as damaged."""
    content = content_of(file)
    overwrite(file, content[: len(content) // 2])
    with pytest.raises(CorruptDocument):
        async with open_store(f"sqlite:///{file}") as store:
            await collected(store.get_all_events("g"))


BROKEN_ROWS = {
    "no_json": "'{'",
    "no_object": "'[1]'",
    "empty_object": "'{}'",
    "wrong_type": "json_set(fields, '$.version', 'two')",
    "version_missing": "json_remove(fields, '$.version')",
}

BROKEN_READS: dict[str, tuple[str, Callable[[StateStore], Any]]] = {
    "get_state": ("governors/g/states/s", lambda store: store.get_state("g", "s")),
    "exists": ("governors/g/states/s", lambda store: store.exists("g", "s")),
    "batch_get_states": ("governors/g/states/s", lambda store: store.batch_get_states("g", ["t000", "s"])),
    "list_states": ("governors/g/states/s", lambda store: collected(store.list_states("g"))),
    "update_state": ("governors/g/states/s", lambda store: store.update_state("g", "s", {}, METADATA, expected=3)),
    "get_stats": ("governors/g/states/s", lambda store: store.get_stats()),
    "get_events": ("governors/g/events/s~000000000002", lambda store: collected(store.get_events("g", "s"))),
    "get_all_events": ("governors/g/events/s~000000000002", lambda store: collected(store.get_all_events("g"))),
    "event_id": (
        "governors/g/ids/e1",
        lambda store: store.update_state("g", "s", {"n": 1}, METADATA, expected=1, event_id="e1"),
    ),
}


@pytest.mark.parametrize("row", BROKEN_ROWS)
async def test_a_broken_row_is_named(file: Path, row: str) -> None:
    """A row whose fields are damaged is never served: a typed error names its document, and quotes nothing of it."""
    for path in {path for path, _ in BROKEN_READS.values()}:
        execute(file, f"UPDATE documents SET fields = {BROKEN_ROWS[row]} WHERE path = '{path}'")
    async with open_store(f"sqlite:///{file}") as store:
        for name, (path, read) in BROKEN_READS.items():
            with pytest.raises(CorruptDocument) as caught:
                await read(store)
            assert caught.value.path == path, name
            assert "two" not in str(caught.value)


async def test_a_damaged_snapshot_is_never_fatal(file: Path) -> None:
    """A kept snapshot that is damaged is passed over: the past is read from the events."""
    execute(file, "UPDATE documents SET fields = '{}' WHERE collection = 'governors/g/snapshots'")
    async with open_store(f"sqlite:///{file}") as store:
        assert await store.load_snapshot("g", "s") is None
        assert (await store.state_at("g", "s", 3)).data == {"n": 2}
