"""When a read may give something else after a flip, and when there is nothing to report: each with its reason."""

from __future__ import annotations

from typing import Any

import msgspec
from flipping import SHAPES, Flip

from tai_state import NotFound, StateEvent

UNDETECTABLE: dict[str, str] = {
    "lock": "a lock that is not there is one that was given back",
    "lockbeat": "a renewal that is not there was not made: the lock ends sooner, and its fence refuses late writes",
    "lockbreak": "a note that is not there was not made: its holder takes the lock for one that it has given back",
    "waiter": "a waiter that is not there waits no longer; it looks after its own document",
    "restore": "without the note, a restore is one that is finished, as this one is",
}
"""Kinds of which one can be removed without a trace, and why nothing that was written is lost by it."""

_HIDING = {"column collection", "column id", "column revision", "column timestamp"}
"""Columns by which documents are found: if they are changed, a read may miss the document; ``verify`` reports it."""

_MOVING = {"column collection", "column id"}
"""Columns that say where a document is: if they are changed, it is no longer there."""


def may_differ(flip: Flip, read: str, before: Any, after: Any, *, is_reported: bool) -> bool:
    """Whether what a read gives after a flip may differ from what it gave before, although checksums are compared.

    What is missing cannot be compared with anything: it is reported by ``verify`` alone. A read may then give less than
    before, but nothing else.
    """
    if _leaves_no_trace(flip):
        return True
    if not is_reported:
        return False
    if read.startswith("StateStore.load_snapshot") and not isinstance(after, Exception):
        return after is None or (before is not None and after.version < before.version)  # the newest sound one
    if _is_removed(flip) or flip.field in _HIDING:
        return isinstance(after, NotFound) or not isinstance(after, list) or _is_less(before, after)
    return False


def _is_removed(flip: Flip) -> bool:
    """Whether a document is no longer where it was."""
    return (flip.field == "document" and flip.what == "removed") or flip.field in _MOVING


def _is_less(before: Any, after: list[Any]) -> bool:
    """Whether a list gives only what it gave before; an event may lack the states that missing ones would show.

    An event before which another one is missing now looks like the first that a cleanup left: if a snapshot of its
    version is kept, which is as it was, it shows the state in it.
    """
    before = before if isinstance(before, list) else []
    known = [*map(str, before), *(str(form) for each in before for form in _forms(each))] if before else []
    untold = {str(each) for each in before if isinstance(each, StateEvent) and each.to_state is None}
    return all(str(each) in known or str(_without_state(each)) in untold for each in after)


def _without_state(item: Any) -> Any:
    return msgspec.structs.replace(item, to_state=None) if isinstance(item, StateEvent) else item


def _forms(item: Any) -> list[Any]:
    """An event without the state before it, and without that after it, if it is the one before it."""
    if not isinstance(item, StateEvent):
        return []
    without = msgspec.structs.replace(item, from_state=None)
    return [without, msgspec.structs.replace(without, to_state=None)]


def _leaves_no_trace(flip: Flip) -> str:
    """Why nobody sees that a document is not where it was; empty: somebody does."""
    if not _is_removed(flip):
        return ""
    if flip.kind == "marker" and flip.path.endswith(_OF_CLEANED_UP):
        return "the event of the marker was cleaned up, and its id with it"
    return UNDETECTABLE.get(flip.kind, "")


_OF_CLEANED_UP = "/ids/dave-0"


def unseen_without_checksum(flip: Flip) -> str:
    """Why not even ``verify`` sees a flip that leaves no wrong checksum behind; empty: it has to."""
    if _is_removed(flip):
        return _leaves_no_trace(flip)
    if flip.kind in _WITHOUT_DIGEST:
        return "no digest covers it"
    if flip.what in {"has one field more", "with one more", "with a space"}:
        return "a reader ignores fields that it does not know, and spaces between what it knows"
    if flip.kind == "marker" and flip.path.endswith(_OF_CLEANED_UP):
        return "its event was cleaned up: there is nothing left to compare it with"
    fields = {flip.field} if flip.field != "text" else set(flip.touched)
    reasons = [_NOT_COVERED.get((flip.kind, each), "") for each in fields if not _is_unknown(each)]
    return reasons[0] if reasons and all(reasons) else ""


def _is_unknown(field: str) -> bool:
    """Whether no document has a field of this name: a flipped bit in a key takes one away, and adds another."""
    return not any(field in each.struct.__struct_fields__ for each in SHAPES.values())


_NOT_COVERED = {
    ("event", "as_of"): "an event of format 1 has none",
    ("event", "content"): "an event of format 1 has none",
    ("state", "floor"): "a cleanup that was broken off leaves events below it",
    ("state", "interval_from"): "it only says from where a policy by intervals counts",
    ("retired", "taken_out"): "no digest covers the counts, nor the ids of the stores that were counted",
    ("marker", "others"): "no digest covers the states of a change beside that of its marker",
}
_WITHOUT_DIGEST = {"governor", "lock", "lockbeat", "lockbreak", "waiter", "store", "restore"}


def harmless(flip: Flip) -> str:
    """Why there is nothing to report of a flip after which all reads give what they gave before; empty: no reason."""
    if reason := _leaves_no_trace(flip):
        return reason
    if flip.what == "as the other number" and flip.field.startswith("column"):
        return "SQLite compares a whole number and the float of the same value as equal"
    if flip.kind == "counter":
        return "a process that finds another token reserves anew, and never below the time; so no number is given twice"
    if flip.what == "copied to a new place" and flip.kind in _WITHOUT_DIGEST - {"governor"}:
        return "no name leads to that place, so nobody reads what is there"
    return ""
