"""Plain JSON: a value comes back exactly as it went in, or it is refused.

Hashes are taken of the canonical text: UTF-8, no spaces, keys sorted by code point, integers exact, floats in the
shortest form that reads back equal. ``docs/format.md`` fixes it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, Final, TypeVar

import msgspec

from tai_state.errors import InvalidData

T = TypeVar("T")

DEPTH_MAX = 200
"""How many levels deep data may be nested."""

_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder()

_CONTROLS = dict.fromkeys([*range(32), 127], "?")
_PATH_MAX = 200
_DIGITS_MAX = 4_299
"""Digits of the longest integer. Python reads one more by default, but the decoder counts a sign among them."""
_TOO_LONG = 10**_DIGITS_MAX
_ZEROS = bytes.maketrans(b"123456789", b"000000000")

decode: Callable[[str | bytes], Any] = _decoder.decode
"""The value of a JSON text. Raises one of :data:`NOT_JSON` if the text is not JSON."""

NOT_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding a text raises that is not JSON, or is nested deeper than the decoder goes."""


def all_text(from_json: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """A decoder that refuses all that is not UTF-8. By itself it passes over fields that it does not know unread."""

    def decode_text(content: bytes) -> T:
        content.decode()
        return from_json(content)

    return decode_text


to_bytes: Callable[[Any], bytes] = _encoder.encode
"""The canonical text of a value that is known to be plain JSON, in UTF-8."""


def encode(value: Any) -> str:
    """The canonical text of a value that is known to be plain JSON."""
    return to_bytes(value).decode()


def normalise(value: Any, what: str) -> tuple[str, Any]:
    """The canonical text of a caller's value, and a copy of the value that shares nothing with it.

    Args:
        value: anything.
        what: its name in an error, like ``"state data"``.

    Raises:
        InvalidData: the value is not plain JSON: dicts with text keys, lists, text, finite numbers, booleans, None.
    """
    try:
        encoded = to_bytes(value)
        # Each level takes two brackets, so a short text cannot be nested too deep.
        if len(encoded) > 2 * DEPTH_MAX and encoded.count(b"[") + encoded.count(b"{") > DEPTH_MAX:
            _check_depth(value, what)
        if len(encoded) > _DIGITS_MAX and b"0" * (_DIGITS_MAX + 1) in encoded.translate(_ZEROS):
            _check_integers(value, what)
        copy = decode(encoded)
    except InvalidData:
        raise
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        raise _explain(value, what) from None
    # Encoding turns a set into a list and NaN into null: only a value that reads back equal was plain JSON.
    if copy != value:
        raise _explain(value, what)
    return encoded.decode(), copy


def normalise_object(value: Any, what: str) -> tuple[str, dict[str, Any]]:
    """Like :func:`normalise`, for data that must be a JSON object."""
    if not isinstance(value, dict):
        raise InvalidData(f"{what} must be a JSON object, not {type(value).__name__}")
    return normalise(value, what)  # pyright: ignore[reportUnknownArgumentType] - normalise checks the types


def _check_depth(value: Any, what: str) -> None:
    level: list[Any] = [value]
    for _ in range(DEPTH_MAX):
        level = [child for parent in level for _, child in _children(parent)]
        if not level:
            return
    raise _too_deep(what)


def _check_integers(value: Any, what: str) -> None:
    level: list[Any] = [value]
    while level:
        if any(isinstance(item, int) and abs(item) >= _TOO_LONG for item in level):
            raise _explain(value, what)
        level = [child for parent in level for _, child in _children(parent)]


def _explain(value: Any, what: str) -> InvalidData:
    """The error for a value that is not plain JSON. It names the first place at fault, without quoting the value."""
    level: list[tuple[str, Any]] = [("$", value)]
    seen: set[int] = set()
    for _ in range(DEPTH_MAX):
        for path, item in level:
            if reason := _not_json(item):
                return InvalidData(f"{what} is not plain JSON: {reason}", _shown(path))
        new = [(path, item) for path, item in level if id(item) not in seen]
        seen.update(id(item) for _, item in new)
        level = [(path + step, child) for path, item in new for step, child in _children(item)]
        if not level:
            return InvalidData(f"{what} refers to itself")
    return _too_deep(what)


def _shown(path: str) -> str:
    """A path for an error text: cut to a bounded length, without characters that could drive a terminal."""
    return path.encode("ascii", "backslashreplace").decode().translate(_CONTROLS)[:_PATH_MAX]


def _too_deep(what: str) -> InvalidData:
    return InvalidData(f"{what} is nested deeper than {DEPTH_MAX} levels")


def _children(item: Any) -> list[tuple[str, Any]]:
    """The children of a dict or list, each with the step of the path that leads to it."""
    found: Any = item
    if isinstance(item, dict):
        return [(f".{key}", child) for key, child in found.items()]
    if isinstance(item, list):
        return [(f"[{index}]", child) for index, child in enumerate(found)]
    return []


def _not_json(item: Any) -> str | None:
    if isinstance(item, float) and not isfinite(item):
        return "NaN and infinity have no JSON form"
    if isinstance(item, str) and (reason := _not_unicode(item)):
        return reason
    if isinstance(item, int) and abs(item) >= _TOO_LONG:
        return "an integer has more than 4,300 digits, counting one for the sign"
    if isinstance(item, dict):
        for key in item:  # pyright: ignore[reportUnknownVariableType]
            if not isinstance(key, str):
                return f"a key is {type(key).__name__}, not text"  # pyright: ignore[reportUnknownArgumentType]
            if reason := _not_unicode(key):
                return reason
        return None
    if isinstance(item, list) or _is_plain(item):
        return None
    plain = next((each.__name__ for each in (str, int, float) if isinstance(item, each)), None)
    return f"{type(item).__name__} " + (f"is not a plain {plain}" if plain else "has no JSON form")


def _is_plain(item: Any) -> bool:
    """Whether a value without children reads back equal."""
    try:
        return bool(decode(to_bytes(item)) == item)
    except (TypeError, ValueError, msgspec.MsgspecError):
        return False


def _not_unicode(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "text holds half of a surrogate pair"
    return None
