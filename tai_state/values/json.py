"""Plain JSON, exactly: what goes in comes out, or it is refused.

The canonical text (UTF-8, no spaces, keys sorted by code point, integers exact, floats in their shortest form
that reads back equal) is what hashes are taken of; ``docs/format.md`` fixes it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tai_state.errors import InvalidData

DEPTH_MAX = 200
"""Levels of nesting that data may have."""

_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder()

decode = _decoder.decode
"""The value of a JSON text; ``msgspec.DecodeError`` when it is none."""


def encode(value: Any) -> str:
    """The canonical text of a value that is known to be plain JSON."""
    return _encoder.encode(value).decode()


def normalise(value: Any, what: str) -> tuple[str, Any]:
    """The canonical text of a caller's value, and a copy of the value that nobody else holds.

    Args:
        value: anything.
        what: its name in an error, like ``"state data"``.

    Raises:
        InvalidData: the value is not plain JSON: dicts with text keys, lists, text, finite numbers, booleans, None.
    """
    try:
        encoded = _encoder.encode(value)
        if encoded.count(b"[") + encoded.count(b"{") > DEPTH_MAX:
            _check_depth(value, what)
        copy = _decoder.decode(encoded)
    except InvalidData:
        raise
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        raise _explain(value, what) from None
    # Encoding turns a set into a list and NaN into null: only what reads back equal was JSON.
    if copy != value:
        raise _explain(value, what)
    return encoded.decode(), copy


def normalise_object(value: Any, what: str) -> tuple[str, dict[str, Any]]:
    """As :func:`normalise`, for data that must be a JSON object."""
    if not isinstance(value, dict):
        raise InvalidData(f"{what} must be a JSON object, not {type(value).__name__}")  # pyright: ignore
    return normalise(value, what)


def _check_depth(value: Any, what: str) -> None:
    level: list[Any] = [value]
    for _ in range(DEPTH_MAX):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)  # pyright: ignore
        ]
        if not level:
            return
    raise InvalidData(f"{what} is nested deeper than {DEPTH_MAX} levels")


def _explain(value: Any, what: str) -> InvalidData:
    """The first place in a value that is no JSON, found the slow way, without quoting the value."""
    waiting: list[tuple[str, Any]] = [("$", value)]
    seen: set[int] = set()
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, dict | list) and id(item) in seen:  # pyright: ignore[reportUnknownArgumentType]
            continue
        seen.add(id(item))
        reason = _not_json(item)
        if reason:
            return InvalidData(f"{what} is not plain JSON: {reason}", path)
        if len(path) > 20 * DEPTH_MAX:
            return InvalidData(f"{what} is nested deeper than {DEPTH_MAX} levels")
        if isinstance(item, dict):
            waiting.extend((f"{path}.{key}", child) for key, child in item.items())  # pyright: ignore
        elif isinstance(item, list):
            waiting.extend((f"{path}[{index}]", child) for index, child in enumerate(item))  # pyright: ignore
    return InvalidData(f"{what} is not plain JSON, or refers to itself")


def _not_json(item: Any) -> str | None:
    if isinstance(item, float) and not (-float("inf") < item < float("inf")):
        return "NaN and infinity have no JSON form"
    if isinstance(item, str):
        return _not_unicode(item)
    if isinstance(item, dict):
        keys: Any = item.keys()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        for key in keys:
            if not isinstance(key, str):
                return f"a key is {type(key).__name__}, not text"
            if reason := _not_unicode(key):
                return reason
        return None
    if item is None or isinstance(item, bool | int | float | list):
        return None
    return f"{type(item).__name__} has no JSON form"


def _not_unicode(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "text holds half of a surrogate pair"
    return None
