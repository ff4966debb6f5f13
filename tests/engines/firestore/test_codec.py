"""Fields as Firestore's values: whatever JSON there is comes back as it was."""

from __future__ import annotations

import secrets
import zlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tai_state.engines.api import Put
from tai_state.engines.firestore.codec import COMPRESSED_FROM, NotJson, decode, encode, is_odd, stored_bytes
from tai_state.testing.checking import exactly

if TYPE_CHECKING:
    from collections.abc import Callable

    from tai_state.engines.api import Engine

driver = pytest.importorskip("tai_state.engines.firestore.driver", exc_type=ImportError)

_KEYS = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(
    [
        "",
        "_w",
        "_json",
        "_keys",
        "__x__",
        "____",
        "___",
        "_",
        "a.b",
        "`",
        "\\",
        "k" * 700,
        "é" * 747,
        "é" * 748,
        "é" * 750,
        "é" * 751,
    ]
)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**65), 2**65)
    | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 0.0, -0.0, 1.0, 1e16])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=6)
)
_VALUES = st.recursive(
    _SCALARS, lambda each: st.lists(each, max_size=4) | st.dictionaries(_KEYS, each, max_size=4), max_leaves=25
)
_FIELDS = st.dictionaries(_KEYS | st.sampled_from(["payload", "to_state", "state"]), _VALUES, max_size=5)


def _nested(value: Any, depth: int) -> Any:
    """The value in so many lists and maps, in turn."""
    for n in range(depth):
        value = [value] if n % 2 else {"deep": value}
    return value


_DEEP = st.builds(_nested, _VALUES, st.integers(15, 60))


def _message() -> Any:
    return driver.CommitRequest().writes.add().update


@given(fields=_FIELDS | st.dictionaries(_KEYS, _DEEP, max_size=2))
def test_what_is_encoded_is_decoded(fields: dict[str, Any]):
    """Any JSON object comes back exactly: types, signs of zero, big integers, odd keys, depth."""
    message = _message()
    encode(fields, message.fields)
    read = decode(message.FromString(message.SerializeToString()).fields)
    assert exactly(read) == exactly(fields)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(many=st.lists(_FIELDS | st.dictionaries(_KEYS, _DEEP, max_size=2), min_size=1, max_size=8))
async def test_what_firestore_stores_is_read(
    firestore: Callable[[], Engine], many: list[dict[str, Any]], anyio_backend: str
):
    """Firestore takes what is encoded, and gives it back exactly."""
    async with firestore() as engine:
        paths = [f"c/{secrets.token_hex(8)}" for _ in many]
        await engine.commit([Put(path, fields) for path, fields in zip(paths, many, strict=True)])
        for document, fields in zip((await engine.read(paths)).documents, many, strict=True):
            assert document is not None
            assert exactly(document.fields()) == exactly(fields)


def test_state_data_is_native():
    """What Firestore can hold stands as its own values, beside the parts that it cannot hold."""
    message = _message()
    encode({"data": {"status": "open", "n": 3, "grid": [1, [2]], "big": 2**70, "": 0}}, message.fields)
    data = message.fields["data"].map_value.fields
    assert data["status"].string_value == "open"
    assert data["n"].integer_value == 3
    first, second = data["grid"].array_value.values
    assert first.integer_value == 1
    assert second.map_value.fields["_json"].string_value == "[2]"
    assert data["big"].map_value.fields["_json"].string_value == str(2**70)
    assert data["_keys"].string_value == '{"":0}'


@pytest.mark.parametrize(("name", "is_compressed"), [("to_state", True), ("state", True), ("note", False)])
def test_long_texts_of_records_are_compressed(name: str, is_compressed: bool):  # noqa: FBT001
    """The texts that nobody queries are compressed from a size on, and only they."""
    for length in (COMPRESSED_FROM - 1, COMPRESSED_FROM):
        message = _message()
        encode({name: "x" * length}, message.fields)
        kind = message.fields[name].WhichOneof("value_type")
        assert kind == ("bytes_value" if is_compressed and length >= COMPRESSED_FROM else "string_value")
        assert decode(message.fields) == {name: "x" * length}


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {1, 2}, b"bytes", object()], ids=lambda each: type(each).__name__
)
def test_what_is_no_json_is_refused(value: Any):
    """NaN, infinities and other types are a TypeError, and never stored."""
    with pytest.raises(TypeError):
        encode({"a": [value]}, _message().fields)


def _set(field: str, value: Any) -> Any:
    return lambda values: setattr(values["a"], field, value)


_FOREIGN = {
    "timestamp": lambda values: values["a"].timestamp_value.FromSeconds(1),
    "place": lambda values: values["a"].geo_point_value.SetInParent(),
    "reference": _set("reference_value", "projects/p/databases/d/documents/c/a"),
    "bytes": _set("bytes_value", b"x"),
    "nothing": lambda values: values["a"].SetInParent(),
    "NaN": _set("double_value", float("nan")),
    "no JSON": lambda values: setattr(values["a"].map_value.fields["_json"], "string_value", "{"),
    "a number for text": lambda values: setattr(values["a"].map_value.fields["_json"], "integer_value", 1),
    "more beside the text": lambda values: (
        setattr(values["a"].map_value.fields["_json"], "string_value", "1"),
        setattr(values["a"].map_value.fields["b"], "string_value", "1"),
    ),
    "odd keys that are none": lambda values: setattr(values["_keys"], "string_value", "[]"),
    "no compression": lambda values: setattr(values["state"], "bytes_value", b"x"),
    "half a text": lambda values: setattr(values["state"], "bytes_value", zlib.compress(b"x" * 999)[:-5]),
    "a bomb": lambda values: setattr(values["state"], "bytes_value", zlib.compress(bytes(17 * 1024 * 1024))),
}


@pytest.mark.parametrize("spoil", _FOREIGN.values(), ids=_FOREIGN)
def test_what_another_program_wrote_is_refused(spoil: Any):
    """A value that is never written here is refused when it is read, whatever it is."""
    message = _message()
    spoil(message.fields)
    with pytest.raises(NotJson):
        decode(message.fields)


@given(key=_KEYS)
def test_odd_keys(key: str):
    """Exactly the keys that Firestore refuses, and the codec's own, stand as text (with room for one below)."""
    refused = not key or (len(key) > 3 and key.startswith("__") and key.endswith("__")) or len(key.encode()) > 1_494
    assert is_odd(key) == (refused or key in {"_w", "_json", "_keys"})


@given(fields=_FIELDS)
def test_no_value_counts_for_more_than_twice_its_bytes(fields: dict[str, Any]):
    """The bound that lets most documents go without being counted holds."""
    message = _message()
    encode(fields, message.fields)
    assert stored_bytes(message.fields) <= 2 * message.ByteSize()


@given(fields=_FIELDS)
def test_structs_are_fields_too(fields: dict[str, Any]):
    """A struct is stored as the dict of its fields."""
    from tai_state.engines.firestore.messages import plain

    class Record(msgspec.Struct):
        data: dict[str, Any]
        kept: tuple[int, ...]

    assert exactly(plain(Record(fields, (1, 2)))) == exactly({"data": fields, "kept": [1, 2]})
