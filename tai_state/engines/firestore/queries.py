"""Scans as Firestore's queries: what the server does, and what is left to this process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Any, Final

import msgspec

from tai_state.engines.api import Scan, Where
from tai_state.engines.firestore.codec import COMPRESSED, INT_MAX, INT_MIN, NATIVE_DEPTH_MAX, PATH_BYTES_MAX, is_odd
from tai_state.engines.firestore.driver import RunQueryRequest
from tai_state.engines.firestore.fieldpaths import quoted
from tai_state.engines.firestore.messages import Names

_RESERVED_ID: Final = re.compile(r"\.|\.\.|__.*__", re.DOTALL)
_NAME: Final = "__name__"

# The numbers of these in StructuredQuery.
_ASCENDING: Final = 1
_AND: Final = 1
_OR: Final = 2
_LESS_THAN: Final = 1
_GREATER_THAN_OR_EQUAL: Final = 4
_EQUAL: Final = 5
_IN: Final = 8
_IS_NULL: Final = 3

_ALTERNATIVES_MAX: Final = 30
"""Firestore's limit for the alternatives of a query, all filters multiplied out."""
_INDEXED_BYTES_MAX: Final = 1_500
"""An index truncates longer texts, and a query cannot tell them apart."""


class ScanPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One scan, split between the server and this process.

    Attributes:
        names: the names of the database.
        collection: the path of the collection.
        start: the first id or, with ``by``, the first value, inclusive.
        end: the end of the ids or values, exclusive.
        by: the field that determines the order; None: the id.
        asked: the filters that the server applies.
        left: the filters that this process applies.
        is_narrowed_here: whether this process leaves out some of the server's documents.
        at_us: the time as of which the server reads; None: now.
    """

    names: Names
    collection: str
    start: str
    end: str | None
    by: str | None
    asked: tuple[Where, ...]
    left: tuple[Where, ...]
    is_narrowed_here: bool
    at_us: int | None


def plan(names: Names, scan: Scan, at_us: int | None = None) -> ScanPlan:
    """Plan a scan.

    With ``by``, this process applies all filters: on the server, each combination would need an index of its own.

    Raises:
        ValueError: Firestore cannot order by this field.
    """
    by = scan.by
    if by is not None and not _is_native(by):
        raise ValueError(f"documents cannot be ordered by the field {by!r} on Firestore")
    asked: list[Where] = []
    left: list[Where] = []
    for each in scan.where:
        alternatives = prod([len(other.values) for other in (*asked, each)])
        can_ask = by is None and _is_native(each.field) and all(map(_is_indexed, each.values))
        (asked if can_ask and alternatives <= _ALTERNATIVES_MAX else left).append(each)
    odd_bounds = by is None and not all(_is_bound(each) for each in (scan.start, scan.end) if each)
    return ScanPlan(
        names=names,
        collection=scan.collection,
        start=scan.start,
        end=scan.end,
        by=by,
        asked=tuple(asked),
        left=tuple(left),
        is_narrowed_here=bool(left) or odd_bounds,
        at_us=at_us,
    )


def query(each: ScanPlan, last: Any | None, rows_max: int | None) -> Any:
    """The request for the next page.

    Args:
        each: the plan of the scan.
        last: the message of the last document of the previous page; None for the first page.
        rows_max: how many documents the page may have; None: no limit.
    """
    parent, collection_id = each.names.parent(each.collection)
    request = RunQueryRequest(parent=parent)
    if each.at_us is not None:
        request.read_time.FromMicroseconds(each.at_us)
    structured = request.structured_query
    structured.from_.add().collection_id = collection_id
    if rows_max is not None:
        structured.limit.value = rows_max
    filters = [_filter(where) for where in each.asked]
    if each.by is not None:
        field = quoted(each.by)
        filters += _between(field, each.start, each.end)
        _ascending(structured.order_by.add(), field)
    _ascending(structured.order_by.add(), _NAME)
    if len(filters) == 1:
        filters[0](structured.where)
    elif filters:
        _all(structured.where.composite_filter, _AND, filters)
    if each.by is None:
        _between_ids(each, structured, is_first=last is None)
    if last is not None:
        if each.by is not None:
            structured.start_at.values.add().CopyFrom(value_at(last.fields, each.by))
        structured.start_at.values.add().reference_value = last.name
    return request


def value_at(values: Any, dotted: str) -> Any:
    """The value at a dotted path of keys; it must exist."""
    *above, key = dotted.split(".")
    for each in above:
        values = values[each].map_value.fields
    return values[key]


def is_within(each: ScanPlan, document_id: str) -> bool:
    """Whether a document is within the bounds of a scan by id; the server may not know these bounds."""
    return each.by is not None or (document_id >= each.start and (each.end is None or document_id < each.end))


def _between_ids(each: ScanPlan, structured: Any, *, is_first: bool) -> None:
    """Set the bounds by id as far as the server can express them; ``is_within`` applies the others."""
    prefix = f"{each.names.name(each.collection)}/"
    if is_first and each.start and _is_bound(each.start):
        # The smallest id after another one is not a valid document id, but "start after the other" means the same.
        is_after = each.start[-1] == "\x00"
        structured.start_at.values.add().reference_value = prefix + each.start.removesuffix("\x00")
        structured.start_at.before = not is_after
    if each.end and _is_bound(each.end):
        structured.end_at.values.add().reference_value = prefix + each.end.removesuffix("\x00")
        structured.end_at.before = each.end[-1] != "\x00"


def _is_bound(text: str) -> bool:
    """Whether a bound can be expressed as an id, or as the place right after one."""
    name = text.removesuffix("\x00")
    return bool(name) and not {"/", "\x00"} & set(name) and not _RESERVED_ID.fullmatch(name)


def _ascending(order: Any, field: str) -> None:
    order.field.field_path = field
    order.direction = _ASCENDING


def _between(field: str, start: str, end: str | None) -> list[Any]:
    """The filters for values from start to end; with text as bounds, values that are not text are left out."""

    def from_start(to: Any) -> None:
        _compare(to.field_filter, field, _GREATER_THAN_OR_EQUAL).string_value = start

    def to_end(to: Any) -> None:
        _compare(to.field_filter, field, _LESS_THAN).string_value = end

    return [from_start] if end is None else [from_start, to_end]


def _compare(to: Any, field: str, operator: int) -> Any:
    to.field.field_path = field
    to.op = operator
    return to.value


def _filter(where: Where) -> Any:
    """A filter for equality or membership. Null needs an operator of its own, and cannot be in a list."""
    field = quoted(where.field)
    values = [value for value in where.values if value is not None]

    def is_null(to: Any) -> None:
        to.unary_filter.field.field_path = field
        to.unary_filter.op = _IS_NULL

    def is_one(to: Any) -> None:
        if len(values) == 1:
            _set(_compare(to.field_filter, field, _EQUAL), values[0])
        else:
            members = _compare(to.field_filter, field, _IN).array_value.values
            for value in values:
                _set(members.add(), value)

    def either(to: Any) -> None:
        _all(to.composite_filter, _OR, [is_null, is_one])

    return is_one if len(values) == len(where.values) else either if values else is_null


def _all(to: Any, operator: int, filters: Sequence[Any]) -> None:
    to.op = operator
    for each in filters:
        each(to.filters.add())


def _set(to: Any, value: str | int | float | bool) -> None:  # noqa: FBT001
    if isinstance(value, str):
        to.string_value = value
    elif isinstance(value, bool):
        to.boolean_value = value
    elif isinstance(value, int):
        to.integer_value = value
    else:
        to.double_value = value


def _is_native(dotted: str) -> bool:
    """Whether a field at this path is always stored as a native value of Firestore's."""
    keys = dotted.split(".")
    is_short = len(keys) <= NATIVE_DEPTH_MAX and len(dotted.encode()) <= PATH_BYTES_MAX
    return is_short and not any(map(is_odd, keys)) and keys[0] not in COMPRESSED


def _is_indexed(value: str | float | bool | None) -> bool:  # noqa: FBT001
    """Whether the server can find the value in an index."""
    if isinstance(value, str):
        return len(value.encode()) <= _INDEXED_BYTES_MAX
    return value is None or INT_MIN <= value <= INT_MAX
