"""Converting fields to Firestore's values and back without loss. ``docs/format.md`` fixes the stored form.

Firestore's own types can hold nearly all of JSON. All else is stored as JSON text in one of two places. No key of a
user's can collide with them, because a key of that name is itself stored as text:

* ``{"_json": text}`` instead of a value: an integer beyond 64 bits, an array in an array, or a map or an array that is
  nested too deeply for Firestore;
* ``"_keys": text`` beside a map's other keys: an object with the entries whose keys Firestore refuses.

The messages are passed in, so that this module does not need the driver.
"""

from __future__ import annotations

import math
import zlib
from typing import Any, Final

import msgspec

from tai_state.engines.api import Fields
from tai_state.values.json import NOT_JSON

SEAL: Final = "_w"
"""The key of the seal, a number beside the document's own fields; see ``seals.py``."""

_JSON: Final = "_json"
_KEYS: Final = "_keys"
_RESERVED: Final = frozenset({SEAL, _JSON, _KEYS})

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
NATIVE_DEPTH_MAX: Final = 19
"""Firestore allows 20 levels, and the map that holds a text needs one of them."""
PATH_BYTES_MAX: Final = 1_500 - len("._json")
"""Firestore's limit for a value's key and the keys above it, joined by dots, less the room for a text below it."""
_UTF8_BYTES_MAX: Final = 4

COMPRESSED: Final = frozenset({"payload", "to_state", "state"})
"""Fields of events and snapshots that hold JSON text and are never queried."""
COMPRESSED_FROM: Final = 1_024
"""The length in characters from which a text is compressed. Compressing a shorter one saves almost nothing."""
_COMPRESSION_LEVEL: Final = 1
_TEXT_BYTES_MAX: Final = 16 * 1024 * 1024
"""A compressed text with a larger content was not written by this module: no document is that large."""

_WORDS: Final = {
    "timestamp_value": "a timestamp",
    "reference_value": "a reference",
    "geo_point_value": "a place",
    None: "nothing",
}


class NotJson(ValueError):
    """A stored value is not one that this module writes."""


def encode(fields: Fields, to: Any) -> None:
    """Write fields into a message's empty map of values.

    Raises:
        TypeError: a value is not plain JSON, or a float is NaN or infinite.
    """
    for name in COMPRESSED:
        text = fields.get(name)
        if type(text) is str and len(text) >= COMPRESSED_FROM:
            to[name].bytes_value = zlib.compress(text.encode(), _COMPRESSION_LEVEL)
            fields = {key: value for key, value in fields.items() if key != name}
    _encode_map(fields, to, 1, 0)


def _encode_map(fields: Fields, to: Any, depth: int, above: int) -> None:
    """Write a map at a depth (the document's own fields: 1), with ``above`` bytes of path above its keys."""
    odd: Fields = {}
    for key, value in fields.items():
        kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
        if is_odd(key, above):
            odd[key] = value
        elif kind is str:
            to[key].string_value = value
        elif kind is dict or kind is list or kind is tuple:
            _encode_container(kind, value, to[key], depth, above + len(key.encode()) + 1)
        else:
            _encode_scalar(kind, value, to[key])
    if odd:
        to[_KEYS].string_value = msgspec.json.encode(odd).decode()


def _encode_scalar(kind: type[Any], value: Any, to: Any) -> None:
    if kind is str:
        to.string_value = value
    elif kind is int and INT_MIN <= value <= INT_MAX:
        to.integer_value = value
    elif kind is int:
        _encode_text(value, to)
    elif kind is bool:
        to.boolean_value = value
    elif value is None:
        to.null_value = 0
    elif kind is float and math.isfinite(value):
        to.double_value = value
    else:
        raise TypeError(f"a {kind.__name__} that is not plain JSON cannot be stored")


def _encode_container(kind: type[Any], value: Any, to: Any, depth: int, above: int) -> None:
    if depth > NATIVE_DEPTH_MAX:
        _encode_text(value, to)
    elif kind is dict:
        to.map_value.SetInParent()
        _encode_map(value, to.map_value.fields, depth + 1, above)
    else:
        to.array_value.SetInParent()
        _encode_array(value, to.array_value.values, depth + 1, above)


def _encode_array(values: list[Any] | tuple[Any, ...], to: Any, depth: int, above: int) -> None:
    for value in values:
        kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
        if kind is list or kind is tuple:
            _encode_text(value, to.add())
        elif kind is dict:
            _encode_container(kind, value, to.add(), depth, above)
        else:
            _encode_scalar(kind, value, to.add())


def _encode_text(value: Any, to: Any) -> None:
    to.map_value.fields[_JSON].string_value = msgspec.json.encode(value).decode()


def is_odd(key: str, above: int = 0) -> bool:
    """Whether a map's entry with this key is stored as text: Firestore refuses the key, or this module reserves it.

    Args:
        key: the key of the entry.
        above: the bytes of the keys above it, each followed by a dot.
    """
    if not key or (
        key[0] == "_" and (key in _RESERVED or (key[1:2] == "_" and key[-2:] == "__" and len(key) > 3))  # noqa: PLR2004
    ):
        return True
    return above + len(key) * _UTF8_BYTES_MAX > PATH_BYTES_MAX and above + len(key.encode()) > PATH_BYTES_MAX


def decode(values: Any) -> Fields:
    """The fields in a document's map of values.

    Raises:
        NotJson: a value is not one that :func:`encode` writes; the message names its kind, not the value.
    """
    # Most values are texts, and a nonempty text shows that it is one: asking for the kind costs twice as much.
    fields: Fields = {key: value.string_value or _decode(value, key) for key, value in values.items()}
    fields.pop(SEAL, None)
    return _with_odd_keys(fields) if _KEYS in fields else fields


def _decode(value: Any, key: str = "") -> Any:
    """Decode one value; for a field of the document itself, its key is given."""
    kind = value.WhichOneof("value_type")
    if kind == "string_value" or kind == "integer_value" or kind == "boolean_value":  # noqa: PLR1714 - the fastest
        return getattr(value, kind)
    if kind == "bytes_value" and key in COMPRESSED:
        return _decompressed(value.bytes_value)
    if kind == "map_value":
        fields = {key: each.string_value or _decode(each) for key, each in value.map_value.fields.items()}
        if _JSON in fields:
            return _from_text(fields[_JSON]) if len(fields) == 1 else _refuse("a map with a reserved key")
        return _with_odd_keys(fields) if _KEYS in fields else fields
    if kind == "array_value":
        return [_decode(each) for each in value.array_value.values]
    if kind == "null_value":
        return None
    if kind == "double_value":
        number = value.double_value
        return number if math.isfinite(number) else _refuse("a float that is NaN or infinite")
    return _refuse(_WORDS.get(kind, "a value of another kind"))


def _with_odd_keys(fields: Fields) -> Fields:
    odd = _from_text(fields.pop(_KEYS))
    return fields | odd if isinstance(odd, dict) else _refuse("a text that is not a JSON object")


def _from_text(text: Any) -> Any:
    try:
        return msgspec.json.decode(text)
    except (*NOT_JSON, TypeError):
        return _refuse("a text that is not JSON")


def _decompressed(data: bytes) -> Any:
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(data, _TEXT_BYTES_MAX).decode()
    except (zlib.error, UnicodeDecodeError):
        return _refuse("a compressed text that is damaged")
    return text if unpacking.eof else _refuse("a compressed text that is truncated or too long")


def _refuse(what: str) -> Any:
    raise NotJson(f"it holds {what}")


def stored_bytes(values: Any) -> int:
    """The bytes that Firestore counts for a map of values towards the limit of a document."""
    return sum([len(key.encode()) + 1 + _value_bytes(value) for key, value in values.items()])


def _value_bytes(value: Any) -> int:
    kind = value.WhichOneof("value_type")
    if kind == "string_value":
        return len(value.string_value.encode()) + 1
    if kind == "map_value":
        return stored_bytes(value.map_value.fields)
    if kind == "array_value":
        return sum([_value_bytes(each) for each in value.array_value.values])
    if kind == "bytes_value":
        return len(value.bytes_value)
    return 8 if kind in {"integer_value", "double_value"} else 1
