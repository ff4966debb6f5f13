"""The indexes that a database needs, in the form that is deployed. Everything else is exempt.

Firestore indexes every field unless told otherwise, and each entry costs a little of every write, storage, and, for
fields that only grow, a limit of 500 writes a second. What is exempt here is never asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tai_state.engines.firestore.fieldpaths import quoted

COLLECTIONS: Final = (
    "events", "governors", "ids", "lockbeats", "locks", "meta", "restores", "snapshots", "states", "waiters"
)  # fmt: skip
"""The ids of all collections that hold documents, as ``docs/format.md`` lists them."""

_EVENT_FIELDS: Final = ("timestamp", "version")
_ASCENDING: Final = {"order": "ASCENDING", "queryScope": "COLLECTION"}


def index_config(indexed: Sequence[str] = (), prefix: str = "") -> dict[str, Any]:
    """What ``firestore.indexes.json`` is to hold.

    An exemption holds for all collections of one id in a database: where others in it have collections of the same
    ids, give tai-state a database of its own, or its collection ids a prefix.

    Args:
        indexed: the state fields (dotted paths into the data) that ``find_states`` may ask for.
        prefix: of the collection ids.
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
