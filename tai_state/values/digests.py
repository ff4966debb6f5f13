"""Hashes of states and the chain of digests along a stream. ``docs/format.md`` fixes the bytes."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from tai_state.values.json import to_bytes

GENESIS = "0" * 64
"""The digest before the first event."""

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
    """The digest of one event, in hex: it stands for the event and, through ``previous``, for all before it.

    Args:
        previous: the digest of the event before, in hex.
        header: the facts of the event without its payload and states.
        payload: the payload's canonical text.
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
    """What a caller's event id stands for: the same call again has the same content."""
    return sha256(_CONTENT_DOMAIN + to_bytes(content)).hexdigest()
