"""Pure values: JSON that reads back equal, ids that never meet, times, hashes, patches, errors."""

from __future__ import annotations

import math
import pickle  # to show that errors survive it, as those of worker processes must
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tai_state import ChangeMetadata, Event, InvalidData, InvalidId, StateSnapshot, TaiStateError, errors
from tai_state.values.clocks import next_hybrid, tick
from tai_state.values.digests import GENESIS, NO_STATE_HASH, content_digest, event_digest, state_hash
from tai_state.values.expected import ANY, EXISTS, NO_STATE, expectation, matches
from tai_state.values.ids import ID_BYTES_MAX, escape_id, split_versioned, unescape_id, versioned
from tai_state.values.json import DEPTH_MAX, decode, encode, normalise, normalise_object
from tai_state.values.metadata import check_metadata
from tai_state.values.patch import diff
from tai_state.values.times import format_time, format_us, from_us, parse_time, to_us

# JSON ----------------------------------------------------------------------------------------------------------

texts = st.text(max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)


class Colour(IntEnum):
    """An int with a name."""

    RED = 1


impostors = st.sampled_from(
    [
        (1, 2),
        {1, 2},
        frozenset(),
        b"bytes",
        bytearray(b"x"),
        {1: "a"},
        {None: 1},
        {(1, 2): 3},
        1j,
        math.nan,
        math.inf,
        -math.inf,
        datetime(2026, 1, 1, tzinfo=UTC),
        timedelta(1),
        object(),
        int,
        "half of a pair: \ud800",
        {"\udfff": 1},
        msgspec.Raw(b"1"),
        ChangeMetadata("a", "b"),
        range(3),
    ]
)
"""Some of them a JSON encoder would take, and read back as something else."""


def same(one: Any, other: Any) -> bool:
    """Equal, with the same types all the way down; the sign of a zero included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and (not isinstance(one, float) or math.copysign(1, one) == math.copysign(1, other))


@given(values)
@example(2**64)
@example(-(2**70))
@example(-0.0)
@example(5e-324)
@example(1e22)
@example({"a": {"": [[], {}, "\x00\u2028\U0001f600"]}})
def test_json_reads_back_equal(value: Any):
    """Whatever plain JSON goes in comes out with the same values and types, and its text is one and the same."""
    text, copy = normalise(value, "data")
    assert same(copy, value)
    assert same(decode(text), value)
    assert encode(copy) == text
    assert normalise(copy, "data")[0] == text


@given(
    st.recursive(
        scalars | impostors,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=6,
    )
)
def test_what_is_accepted_reads_back_equal(value: Any):
    """Whatever is not refused reads back equal: nothing is turned silently into something else."""
    try:
        text, copy = normalise(value, "data")
    except InvalidData:
        return
    assert copy == value
    assert same(decode(text), copy)


@given(impostors, st.sampled_from(["x", 0]))
def test_what_is_no_json_is_refused_with_its_place(value: Any, step: str | int):
    """The error names the place and never quotes the value."""
    data = {"a": {"x": value}} if step == "x" else {"a": [value]}
    with pytest.raises(InvalidData) as error:
        normalise(data, "state data")
    assert str(error.value).startswith("state data is not plain JSON")
    assert error.value.path.startswith("$.a.x" if step == "x" else "$.a[0]")


def test_named_numbers_and_subclasses_are_what_they_are():
    """An enumeration's number is stored as the number it equals."""
    assert normalise({"n": Colour.RED}, "data") == ('{"n":1}', {"n": 1})


def test_keys_are_sorted_by_code_point():
    """The canonical text does not depend on the order in which keys were put in."""
    assert normalise({"b": 1, "a": 2, "é": 3, "Z": 4, "\U0001f600": 5, "\uffff": 6}, "data")[0] == (
        '{"Z":4,"a":2,"b":1,"é":3,"\uffff":6,"\U0001f600":5}'
    )


def _nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def test_depth_has_a_limit():
    """Data may be nested as deep as the limit, and no deeper, however deep it is."""
    assert normalise(_nested(DEPTH_MAX - 1), "data")
    for levels in (DEPTH_MAX + 1, 2_000, 100_000):
        with pytest.raises(InvalidData, match="nested deeper"):
            normalise(_nested(levels), "data")


def test_many_small_things_are_not_deep():
    """What is wide is not deep."""
    wide = [[0]] * 1_000
    assert normalise(wide, "data")[1] == wide


def test_data_that_holds_itself_is_refused():
    """A loop ends in an error, not in a crash."""
    loop: list[Any] = []
    loop.append({"again": loop})
    with pytest.raises(InvalidData):
        normalise(loop, "data")


@pytest.mark.parametrize("value", [[], "text", None, 1, [("a", 1)]])
def test_states_are_objects(value: Any):
    """A state's data is a JSON object and nothing else."""
    with pytest.raises(InvalidData, match="must be a JSON object"):
        normalise_object(value, "state data")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"changed_by": "a", "reason": "b"},
        ChangeMetadata(1, "b"),  # type: ignore[arg-type]
        ChangeMetadata("a", None),  # type: ignore[arg-type]
        ChangeMetadata("\ud800", "b"),
        ChangeMetadata("a", "b", {"c": object()}),
        ChangeMetadata("a", "b", [1]),  # type: ignore[arg-type]
    ],
)
def test_metadata_is_checked(metadata: Any):
    """Metadata of another shape, or that cannot be stored, is refused."""
    with pytest.raises(InvalidData):
        check_metadata(metadata)


# Ids -----------------------------------------------------------------------------------------------------------

NASTY = ["/", "..", ".", "a/b", "%2F", "a%2Fb", "~", "a~000000000001", "__x__", "____", "%5F_x__", "\x00", "\n", "é"]
ids = st.text(st.sampled_from("ab%/~._\x00\x7fé\u202e2FE5\U0001f600"), min_size=1, max_size=10) | st.sampled_from(NASTY)


@given(ids | st.text(min_size=1, max_size=20))
def test_ids_come_back(identifier: str):
    """An escaped id is one safe path segment and comes back as it was."""
    try:
        segment = escape_id(identifier)
    except InvalidId:
        assert any("\ud800" <= letter <= "\udfff" for letter in identifier)
        return
    assert unescape_id(segment) == identifier
    assert "/" not in segment
    assert "~" not in segment
    assert segment not in (".", "..")
    assert not (segment.startswith("__") and segment.endswith("__") and len(segment) >= 4)
    assert not any(letter < " " for letter in segment)


@given(st.lists(ids, unique=True, max_size=30))
def test_two_ids_are_two_segments(identifiers: list[str]):
    """Escaping is injective: no two ids meet in one path."""
    assert len({escape_id(identifier) for identifier in identifiers}) == len(identifiers)


@given(ids, ids, st.integers(0, 10**12 - 1), st.integers(0, 10**12 - 1))
def test_versions_sort_within_their_stream(one: str, other: str, version: int, later: int):
    """Documents of one stream stand together and in the order of their versions, whatever the ids are."""
    segment, other_segment = escape_id(one), escape_id(other)
    assert split_versioned(versioned(segment, version)) == (segment, version)
    assert (versioned(segment, version) < versioned(segment, later)) == (version < later)
    if segment != other_segment:
        between = versioned(other_segment, version)
        assert not versioned(segment, 0) < between < versioned(segment, 10**12 - 1)


@pytest.mark.parametrize("identifier", ["", None, 1, b"x", ["a"], "\ud800", "x" * (ID_BYTES_MAX + 1), "é" * 741])
def test_what_cannot_be_an_id(identifier: Any):
    """An id is text of at least one character, valid Unicode, and not too long once escaped."""
    with pytest.raises(InvalidId):
        escape_id(identifier)


def test_the_longest_id():
    """An id may be exactly as long as the limit."""
    assert len(escape_id("é" * (ID_BYTES_MAX // 2)).encode()) == ID_BYTES_MAX


@pytest.mark.parametrize("document_id", ["a", "a~1", "a~00000000000x", "a~0000000000011", "a~٠٠٠٠٠٠٠٠٠٠٠١"])
def test_what_is_no_version(document_id: str):
    """Only what was made as a version is read as one."""
    with pytest.raises(ValueError, match=document_id):
        split_versioned(document_id)


# Times ---------------------------------------------------------------------------------------------------------

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


# Hashes and clocks ---------------------------------------------------------------------------------------------


def test_golden_digests():
    """The bytes of hashes and digests are the format: these values, computed without the library, never change."""
    assert state_hash("null") == NO_STATE_HASH
    assert NO_STATE_HASH == "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"
    assert state_hash('{"n":1}') == "2bfd14f43d17fc7cea24e0917a8879b4b2f880b8baeec1b9d90fbaad655e71bd"
    header = {"governor_id": "bank", "state_id": "é", "version": 1, "causality": {"aa": 1}, "metadata": None}
    carried = event_digest(GENESIS, header, None, NO_STATE_HASH)
    assert carried == "bf5dfc6cf1ab7f4b969535cbb9b1d7bdd1b7892baf1bea283ef10694aade1d57"
    followed = event_digest(carried, header, '{"p":1.5}', state_hash('{"n":1}'))
    assert followed == "36283f0bfe311f1174ac9f6ec559abdabc369c927df0943bdeafff0023e0be06"
    content = content_digest("alice", "save", None, 1)
    assert content == "ce5f463d0a224525589b32f78b1e88d7dd09e6ede3ddfbfd4f12564053233b9f"


@given(st.integers(0, 3), st.data())
def test_a_digest_stands_for_all_of_an_event(part: int, data: st.DataObject):
    """Changing any part changes the digest; no payload is not the same as an empty one."""
    content: list[Any] = [GENESIS, {"version": 1}, "1", NO_STATE_HASH]
    other = list(content)
    other[part] = data.draw(
        [
            st.integers(1, 2**256 - 1).map(lambda number: f"{number:064x}"),
            st.integers(2, 99).map(lambda number: {"version": number}),
            st.none() | texts.filter(lambda text: text != "1" and _encodable(text)),
            st.just(GENESIS),
        ][part]
    )
    assert event_digest(*content) != event_digest(*other)


def _encodable(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


@given(st.integers(0, 2**62), st.integers(0, 10**16))
def test_a_hybrid_clock_only_grows(previous: int, now_us: int):
    """The clock of an event is later than that of the one before, however far back the writer's own clock is."""
    assert next_hybrid(previous, now_us) > previous
    assert next_hybrid(0, now_us) >> 16 == now_us // 1_000 or now_us < 1_000


def test_ticking_counts_the_stores_own_events():
    """A store counts its own component up and leaves the others and the clock before as they are."""
    before = {"one": 2}
    assert tick(before, "other") == {"one": 2, "other": 1}
    assert tick(before, "one") == {"one": 3}
    assert before == {"one": 2}


@pytest.mark.parametrize(
    ("expected", "fitting"),
    [
        (0, {(0, False)}),
        (2, {(2, False), (2, True)}),
        (NO_STATE, {(0, False), (1, True), (2, True)}),
        (EXISTS, {(1, False), (2, False)}),
        (ANY, {(0, False), (1, False), (1, True), (2, False), (2, True)}),
    ],
    ids=str,
)
def test_what_fits_an_expectation(expected: Any, fitting: set[tuple[int, bool]]):
    """Which states each expectation means."""
    standings = {(0, False), (1, False), (1, True), (2, False), (2, True)}
    assert {each for each in standings if matches(expectation(expected, "g", "s"), each[0], deleted=each[1])} == fitting


def test_a_snapshot_is_expected_by_its_version():
    """A snapshot that was read stands for the version inside it."""
    assert expectation(StateSnapshot.unsaved("g", "s", {}), "g", "s") == 0
    for other in (("g", "t"), ("h", "s")):
        with pytest.raises(InvalidData, match="another state"):
            expectation(StateSnapshot.unsaved("g", "s", {}), *other)


# Patches -------------------------------------------------------------------------------------------------------


def apply(document: Any, patch: list[dict[str, Any]]) -> Any:
    """RFC 6902, as far as patches of ours go."""
    document = decode(encode(document))
    for operation in patch:
        keys = [key.replace("~1", "/").replace("~0", "~") for key in operation["path"].split("/")[1:]]
        if not keys:
            assert operation["op"] == "replace"
            document = operation["value"]
            continue
        parent = document
        for key in keys[:-1]:
            parent = parent[int(key)] if isinstance(parent, list) else parent[key]
        last = keys[-1]
        if isinstance(parent, list):
            if operation["op"] == "add":
                parent.insert(len(parent) if last == "-" else int(last), operation["value"])
            elif operation["op"] == "remove":
                del parent[int(last)]
            else:
                parent[int(last)] = operation["value"]
        elif operation["op"] == "remove":
            del parent[last]
        else:
            assert (last in parent) == (operation["op"] == "replace")
            parent[last] = operation["value"]
    return document


@given(values, values)
@example({"a/b": 1, "m~n": [1, 2, 3], "": 0}, {"m~n": [1], "": {"x": None}})
@example([1, True, 1.0, None], [True, 1, 1, {}])
@example({"a": 1}, {})
@example([], [[]])
def test_a_patch_leads_to_its_target(before: Any, after: Any):
    """Applying the difference of two values to the first gives the second, with its types."""
    assert encode(apply(before, diff(before, after))) == encode(after) or _only_zeros_differ(before, after)


def _only_zeros_differ(before: Any, after: Any) -> bool:
    return apply(before, diff(before, after)) == after


@given(values)
def test_no_difference_is_no_patch(value: Any):
    """A value differs in nothing from itself."""
    assert diff(value, decode(encode(value))) == []


# Errors --------------------------------------------------------------------------------------------------------

_EVENT = Event(
    governor_id="g",
    state_id="s",
    version=2,
    id="i",
    action="a",
    payload={"secret": 1},
    from_state={"secret": 1},
    to_state=None,
    timestamp=from_us(0),
    recorded_at=from_us(0),
    metadata=ChangeMetadata("a", "b"),
    causality={},
    digest="",
)
_SAMPLES: dict[str, Any] = {
    "path": "governors/g/states/s",
    "what": "what",
    "limit": 3,
    "size": 4,
    "indexed": ("a",),
    "hint": "do this",
    "expected": 1,
    "actual": 2,
    "events": (_EVENT,),
    "event_id": "id",
    "row": 7,
    "event_ids": ("a", "b"),
    "paths": ("p",),
    "operation": "commit",
    "code": "CODE",
    "unknown": True,
    "attempts": 3,
    "cause": "somebody else",
    "clocks": ({"a": 1}, {"b": 2}),
    "resource": "nightly",
    "holder": "worker 7",
    "remaining": 1.5,
    "cycle": ("a", "b"),
}
_CLASSES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, TaiStateError)]


@pytest.mark.parametrize("error_type", _CLASSES, ids=lambda each: each.__name__)
def test_errors_have_fields_and_survive_pickling(error_type: type[TaiStateError]):
    """Each error carries its facts as fields, says them in its text, and comes through a pickle whole."""
    error = error_type(**{each.name: _SAMPLES[each.name] for each in fields(error_type)})
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_type
    assert (str(copy), copy.fields()) == (str(error), error.fields())
    assert set(error.fields()) == {each.name for each in fields(error_type)}
    msgspec.json.encode(error.fields())
    assert "secret" not in f"{error} {error.fields()}"
    assert error_type.__doc__
    assert 0 < error.exit_code < 128
    assert isinstance(error.is_transient, bool)
    assert error.backoff_seconds > 0


@pytest.mark.parametrize(
    ("name", "exit_code", "is_transient"),
    [
        ("StateNotFound", 1, False),
        ("InvalidId", 2, False),
        ("VersionConflict", 3, False),
        ("TransactionFailed", 3, True),
        ("StaleRead", 3, True),
        ("CausalityViolation", 3, False),
        ("ConflictResolutionFailed", 3, False),
        ("IdempotencyConflict", 3, False),
        ("CorruptDocument", 4, False),
        ("NotRetained", 4, False),
        ("CommitOutcomeUnknown", 5, False),
        ("StoreUnavailable", 5, True),
        ("StoreTimeout", 5, True),
    ],
)
def test_what_to_do_about_an_error(name: str, exit_code: int, is_transient: bool):  # noqa: FBT001
    """Errors say whether the same call may succeed later, and what the command line ends with."""
    error_type = getattr(errors, name)
    assert (error_type.exit_code, error_type.is_transient) == (exit_code, is_transient)
