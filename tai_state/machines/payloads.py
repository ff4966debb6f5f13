"""What the payload of a machine's event says of its step, besides who took it."""

from __future__ import annotations

from typing import Any, Final

from tai_state.machines.states import key_of, name_of
from tai_state.streams.codec import codec_of

TRIGGER: Final = "trigger"
"""What caused the step, in the payload of its event."""
TO: Final = "to"
"""The name of the state that was asked for, in the payload of its event; missing where an event chose it."""
VALUES: Final = "values"
"""What that state was asked to carry, in the payload of its event."""
BROUGHT: Final = "payload"
"""What a fired event brought, in the payload of the event that records it."""


def state_said(state: Any) -> dict[str, Any]:
    """A state that a caller names, in the payload of an event."""
    key = key_of(state)
    values = {} if key is state else codec_of(key).to_json(state)
    return {TO: name_of(key), VALUES: values} if values else {TO: name_of(key)}
