"""Data that is no JSON, too large or no object is refused, and what looks dangerous comes back as it was."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import math
import types
import uuid
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tai_state import ChangeMetadata, NewEvent, StateMachinePersister, StateSnapshot, StateStore
from tai_state.errors import DocumentTooLarge

from ..support.refusals import NOW, SECRET, persister_of, refused
from ..support.stores import GOVERNOR, METADATA, Places

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """What is refused is refused before anything that knows of event loops."""
    return "asyncio"


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

REASONS = {
    **dict.fromkeys(["nan", "infinity", "minus_infinity", "nan_inside"], "NaN and infinity have no JSON form"),
    **dict.fromkeys(["surrogate", "surrogate_deep", "surrogate_key"], "text holds half of a surrogate pair"),
    **dict.fromkeys(["number_key", "mixed_keys"], "a key is int, not text"),
    "none_key": "a key is NoneType, not text",
    "true_key": "a key is bool, not text",
    "bytes_key": "a key is bytes, not text",
    "tuple_key": "a key is tuple, not text",
    "huge_number": "an integer has more than 4,300 digits",
    **dict.fromkeys(["list_in_itself", "object_in_itself"], "refers to itself"),
    **dict.fromkeys(["deep_list", "deep_object", "a_little_too_deep"], "is nested deeper than 200 levels"),
}
"""What is said of it; of all else, that its type has no JSON form."""

DATA_CALLS: dict[str, Callable[[StateStore, Any], Any]] = {
    "save_state": lambda store, value: store.save_state(GOVERNOR, "new", {"a": value}, METADATA),
    "update_state": lambda store, value: store.update_state(GOVERNOR, "s", {"a": value}, METADATA, expected=1),
    "log_event": lambda store, value: store.log_event(GOVERNOR, "s", "noted", METADATA, payload=value),
    "handle.save": lambda store, value: store.state(GOVERNOR, "new").save({"a": value}, METADATA),
    "handle.update": lambda store, value: store.state(GOVERNOR, "s").update(lambda _: {"a": value}, METADATA),
    "record": lambda store, value: persister_of(store).record(
        GOVERNOR, "s", [NewEvent("add", 1), NewEvent("other", value)], METADATA, expected=1
    ),
    "reducer": lambda store, value: StateMachinePersister(store, {"add": lambda *_: {"a": value}}).record(
        GOVERNOR, "s", [NewEvent("add", 1)], METADATA, expected=1
    ),
    "log_transition": lambda store, value: persister_of(store).log_transition(
        GOVERNOR, None, StateSnapshot.unsaved(GOVERNOR, "new", {"a": value}), "made", METADATA
    ),
    "context": lambda store, value: store.save_state(GOVERNOR, "new", {}, ChangeMetadata("ana", "why", {"a": value})),
    "context_of_a_deletion": lambda store, value: store.delete_state(
        GOVERNOR, "s", ChangeMetadata("ana", "why", {"a": value}), expected=1
    ),
}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(value, REASONS.get(name, f"{type(value).__name__} has no JSON form"), id=name)
        for name, value in NO_JSON.items()
    ],
)
async def test_data_that_is_no_json(places: Places, value: Any, reason: str) -> None:
    """Whatever is no plain JSON is refused wherever data goes in, without a word of the data, and nothing is sent."""
    calls = [partial(call, value=value) for call in DATA_CALLS.values()]
    for name, error in zip(DATA_CALLS, await refused(places.new(), *calls), strict=True):
        assert reason in str(error), name


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
        assert (await persister_of(store).validate_consistency()).consistent


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
        lambda store: persister_of(store).log_transition(
            GOVERNOR, None, StateSnapshot.unsaved(GOVERNOR, "new", data), "made", METADATA
        ),
    )
    for error in errors:
        assert "JSON object" in str(error)
