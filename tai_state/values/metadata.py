"""Who changed a state, and why."""

from __future__ import annotations

from typing import Any

import msgspec

from tai_state.errors import InvalidData
from tai_state.values.json import encode, normalise_object


class ChangeMetadata(msgspec.Struct, frozen=True):
    """Who made a change and why; part of every event.

    Attributes:
        changed_by: the user, service or job that made the change.
        reason: why, in the caller's words.
        context: any further facts, as a JSON object.
        parent_version: the version on which the change was made; set by the store.
        trace: ids of the request or span that made the change, such as a ``traceparent``. They are kept with the event
            but are not part of its content: repeating a call with different trace ids is still the same change.
    """

    changed_by: str
    reason: str
    context: dict[str, Any] = {}
    parent_version: int | None = None
    trace: dict[str, str] = {}


def check_metadata(metadata: ChangeMetadata) -> str:
    """Check that metadata can be stored. Returns the canonical text of its context.

    Raises:
        InvalidData: a field has the wrong type or cannot be stored.
    """
    if type(metadata) is not ChangeMetadata:
        raise InvalidData(f"metadata must be ChangeMetadata, not {type(metadata).__name__}")
    check_text(metadata.changed_by, "metadata.changed_by")
    check_text(metadata.reason, "metadata.reason")
    if type(metadata.context) is dict and not metadata.context:
        return "{}"
    return normalise_object(metadata.context, "metadata.context")[0]


def check_trace(metadata: ChangeMetadata) -> str | None:
    """Check the trace of metadata. Returns its canonical text; None if it is empty.

    Raises:
        InvalidData: the trace is not a dict of texts, or cannot be stored.
    """
    trace: object = metadata.trace
    if type(trace) is not dict:
        raise InvalidData(f"metadata.trace must be a dict, not {type(trace).__name__}")
    if not trace:
        return None
    for name, value in trace.items():  # pyright: ignore[reportUnknownVariableType]
        check_text(name, "a name in metadata.trace")  # pyright: ignore[reportUnknownArgumentType]
        check_text(value, f"metadata.trace[{name!r}]")  # pyright: ignore[reportUnknownArgumentType]
    return encode(trace)


def check_default(metadata: ChangeMetadata | None) -> ChangeMetadata | None:
    """Metadata for changes that do not bring their own, once it is known to be storable.

    Raises:
        InvalidData: it is not.
    """
    if metadata is not None:
        check_metadata(metadata)
        check_trace(metadata)
    return metadata


def check_text(text: object, what: str) -> str:
    """Check a text, and return it.

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
