"""Times, and the text they are written as."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tai_state import InvalidData
from tai_state.values.times import format_time, format_us, from_us, parse_time, to_us

moments = st.datetimes(
    min_value=datetime(1, 1, 3),  # noqa: DTZ001
    max_value=datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


@given(moments)
def test_times_come_back(moment: datetime):
    """Times are kept to the microsecond, as one text for one moment."""
    text = format_time(moment)
    assert parse_time(text) == moment
    assert len(text) == 27
    assert text.endswith("Z")
    assert format_time(parse_time(text)) == text


@given(moments, moments)
def test_text_order_is_time_order(one: datetime, other: datetime):
    """Times sort as their texts do."""
    assert (format_time(one) < format_time(other)) == (one < other)


@given(st.integers(-(10**15), 8_500_000_000_000_000))
def test_microseconds_come_back(microseconds: int):
    """Microseconds since 1970 and moments are the same, before 1970 too."""
    assert to_us(from_us(microseconds)) == microseconds
    assert format_us(microseconds) == format_time(from_us(microseconds))


def test_how_times_are_written():
    """RFC 3339 in UTC with microseconds; a text without an offset is read as UTC."""
    noon = datetime(2026, 1, 31, 12, 0, tzinfo=timezone(timedelta(hours=-5)))
    assert format_time(noon) == "2026-01-31T17:00:00.000000Z"
    assert parse_time("2026-01-31T17:00:00") == noon
    assert parse_time("2026-01-31 18:00:00+01:00") == noon
    assert parse_time("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "12:00", "1770000000", "0001-01-01T00:00:00+05:00"])
def test_what_is_no_time(text: str):
    """A text that is no time, or a time that does not exist in UTC, is refused."""
    with pytest.raises(InvalidData):
        parse_time(text)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 1, 1),  # noqa: DTZ001
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))),
        datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_what_cannot_be_written_as_a_time(moment: datetime):
    """A time needs an offset, and must lie in the years that UTC can write."""
    with pytest.raises(InvalidData):
        format_time(moment)
