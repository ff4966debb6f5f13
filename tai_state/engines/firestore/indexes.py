"""The indexes that a database needs, in the form in which they are deployed. All other fields are exempted.

Firestore indexes every field unless it is exempted. Each index entry slows down writes a little and takes storage, and
for fields that only grow it limits writes to 500 a second. The fields exempted here are never queried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tai_state.engines.firestore.fieldpaths import quoted

COLLECTIONS: Final = (
    "cleaned", "events", "governors", "ids", "lockbeats", "lockbreaks", "locks",
    "meta", "restores", "retired", "snapshots", "states", "timers", "waiters"
)  # fmt: skip
"""The ids of all collections that hold documents, as ``docs/format.md`` lists them."""

_EVENT_FIELDS: Final = ("timestamp", "version")
_ASCENDING: Final = {"order": "ASCENDING", "queryScope": "COLLECTION"}


def index_config(indexed: Sequence[str] = (), prefix: str = "") -> dict[str, Any]:
    """The content of ``firestore.indexes.json``.

    An exemption holds for all collections with the same id in a database. If other programs use collections with these
    ids, give tai-state a database of its own, or give its collection ids a prefix.

    Args:
        indexed: the state fields (dotted paths into the data) that ``find_states`` may ask for.
        prefix: the prefix of the collection ids.
    """
    overrides: list[dict[str, Any]] = []
    for collection in COLLECTIONS:
        fields: Sequence[str] = ()
        if collection == "events":
            fields = _EVENT_FIELDS
        elif collection == "states" and indexed:
            fields = [*(f"data.{quoted(each)}" for each in sorted(set(indexed))), "schema"]
        overrides.append(_override(prefix + collection, "*", []))
        overrides += [_override(prefix + collection, field, [_ASCENDING]) for field in fields]
    return {"indexes": [], "fieldOverrides": overrides}


def _override(collection: str, field: str, indexes: list[dict[str, str]]) -> dict[str, Any]:
    return {"collectionGroup": collection, "fieldPath": field, "indexes": indexes}
