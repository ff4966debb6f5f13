"""Who changed a state, and why."""

from __future__ import annotations

from typing import Any

import msgspec

from tai_state.errors import InvalidData
from tai_state.values.json import normalise_object


class ChangeMetadata(msgspec.Struct, frozen=True):
    """Who made a change and why; part of every event.

    Attributes:
        changed_by: the user, service or job that made the change.
        reason: why, in the caller's words.
        context: any further facts, a JSON object.
        parent_version: the version that the change was made on; set by the store.
    """

    changed_by: str
    reason: str
    context: dict[str, Any] = {}
    parent_version: int | None = None


def check_metadata(metadata: ChangeMetadata) -> str:
    """The canonical text of a caller's context, once all of the metadata is known to be storable.

    Raises:
        InvalidData: a field has the wrong type or cannot be stored.
    """
    if type(metadata) is not ChangeMetadata:
        raise InvalidData(f"metadata must be ChangeMetadata, not {type(metadata).__name__}")
    for name, text in (("changed_by", metadata.changed_by), ("reason", metadata.reason)):
        check_text(text, f"metadata.{name}")
    if type(metadata.context) is dict and not metadata.context:
        return "{}"
    return normalise_object(metadata.context, "metadata.context")[0]


def check_text(text: object, what: str) -> str:
    """The text itself.

    Raises:
        InvalidData: it is not text, or not valid Unicode.
    """
    if type(text) is not str:
        raise InvalidData(f"{what} must be text, not {type(text).__name__}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidData(f"{what} holds half of a surrogate pair") from None
    return text
