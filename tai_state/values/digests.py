"""Hashes of states and the chain of digests along a stream. ``docs/format.md`` fixes the bytes."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from tai_state.values.json import to_bytes

GENESIS = "0" * 64
"""The digest that the first event of a stream follows."""

NO_STATE_TEXT = "null"
"""The canonical text of a state that does not exist or is deleted."""

_EVENT_DOMAIN = b"tai-state event 1\x00"
_CONTENT_DOMAIN = b"tai-state content 1\x00"
_NO_PAYLOAD = bytes(32)


def state_hash(text: str) -> str:
    """SHA-256 of a state's canonical text, in hex."""
    return sha256(text.encode()).hexdigest()


NO_STATE_HASH = state_hash(NO_STATE_TEXT)


def event_digest(previous: str, header: Any, payload: str | None, after: str) -> str:
    """The digest of one event, in hex. It covers the event and, through ``previous``, all events before it.

    Args:
        previous: the digest of the event before, in hex.
        header: the fields of the event without its payload and states.
        payload: the payload's canonical text; None if it has none.
        after: the hash of the state after the event, in hex.
    """
    parts = (
        _EVENT_DOMAIN,
        bytes.fromhex(previous),
        sha256(to_bytes(header)).digest(),
        _NO_PAYLOAD if payload is None else sha256(payload.encode()).digest(),
        bytes.fromhex(after),
    )
    return sha256(b"".join(parts)).hexdigest()


def content_digest(*content: Any) -> str:
    """The digest of what a call changes, kept with the caller's event id: repeating the call gives the same digest."""
    return sha256(_CONTENT_DOMAIN + to_bytes(content)).hexdigest()
