"""Times as text: RFC 3339 in UTC with microseconds and ``Z``, so that text order is time order."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol

from tai_state.errors import InvalidData

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

AHEAD_MAX_US = 24 * 3_600 * 1_000_000
"""How far ahead of a clock a time may be: that of a sender whose own clock is some hours ahead is taken."""


class WallClock(Protocol):
    """The source of the time. Tests pass their own."""

    def now_us(self) -> int:
        """Microseconds since 1970 in UTC."""
        ...


def format_time(moment: datetime) -> str:
    """``2026-01-31T09:15:00.000000Z``.

    Raises:
        InvalidData: the time has no offset, so that its moment is not known.
    """
    if not isinstance(moment, datetime):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidData(f"a time must be a datetime, not {type(moment).__name__}")
    if moment.tzinfo is None:
        raise InvalidData("a time needs an offset: use datetime.now(UTC) or .replace(tzinfo=UTC)")
    text = moment.isoformat(timespec="microseconds")
    if not text.endswith("+00:00"):
        text = _in_utc(moment).isoformat(timespec="microseconds")
    return text[:-6] + "Z"


def format_us(microseconds: int) -> str:
    """Like :func:`format_time`, for the moment that many microseconds after 1970."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{_second(seconds)}.{str(rest).zfill(6)}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    """A whole second as text; cached, because many changes happen in one second."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_RFC_3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}):(\d{2})(?:\.(\d{1,6})0*)?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)?", re.ASCII
)
_LEAP = "60"
_LEAP_DAYS = ("06-30T23:59:59", "12-31T23:59:59")
"""The last second of the days, in UTC, that may end with a leap second."""


def parse_rfc3339(text: str) -> datetime:
    """The moment that a caller's text names, in RFC 3339; a text without an offset is read as UTC.

    A date alone is its first moment. A leap second is read as the last microsecond before it. Digits of less than a
    microsecond must be zeros.

    Raises:
        InvalidData: the text is not a time in RFC 3339, or names no exact moment.
    """
    if _DATE.fullmatch(text):
        return parse_time(text)
    found = _RFC_3339.fullmatch(text)
    if found is None:
        raise _no_time_error(text)
    day, minute, second, fraction, offset = found.groups()
    is_leap = second == _LEAP
    if is_leap:
        second, fraction = "59", "999999"
    zone = "Z" if offset is None or offset == "z" else offset
    moment = parse_time(f"{day}T{minute}:{second}.{fraction or '0'}{zone}")
    if is_leap and not moment.isoformat().startswith(_LEAP_DAYS, len("2016-")):
        raise _no_time_error(text)
    return moment


def _no_time_error(text: str) -> InvalidData:
    return InvalidData(f"{text!r} is not a time; write it like 2026-01-31T09:15:00Z")


def parse_time(text: str) -> datetime:
    """The moment that a text names; a text without an offset is read as UTC. It takes all forms of ISO 8601.

    Raises:
        InvalidData: the text is not a time in ISO 8601.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _no_time_error(text) from None
    if moment.tzinfo is UTC:
        return moment
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else _in_utc(moment)


def is_far_ahead(time: str, now_us: int) -> bool:
    """Whether a time, as text, is more than a day ahead of a moment; it would hold up all that goes by time."""
    return time > format_us(now_us + AHEAD_MAX_US)


def check_not_ahead(time: str, latest: str, what: str) -> str:
    """Check that a time that a caller gives is not too far ahead of the clock, and return it.

    Raises:
        InvalidData: it is later than ``latest``.
    """
    if time > latest:
        raise InvalidData(f"{what} is {time}, which is more than a day ahead of the clock")
    return time


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidData("a time must be within the years 1 to 9999 in UTC") from None


def from_us(microseconds: int) -> datetime:
    """The moment that many microseconds after 1970. Exact until the year 2242, up to which floats are."""
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC)


def to_us(moment: datetime) -> int:
    """Microseconds from 1970 to a moment."""
    return (moment - _EPOCH) // _MICROSECOND
