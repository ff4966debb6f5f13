"""Triggers: their texts, which are the original's, and their stored form."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tai_state import InvalidData
from tai_state.machines import (
    Cascade,
    Command,
    Event,
    Failure,
    MachineEvent,
    Recovery,
    StateMachine,
    Timeout,
    Trigger,
)

from ..support.machine_kit import NODE, Node, Payment

TEXTS: list[tuple[Trigger, str, dict[str, Any]]] = [
    (Command("drain"), "Command: drain", {"type": "command", "command": "drain"}),
    (Event("quorum"), "Event: quorum", {"type": "event", "event": "quorum"}),
    (
        Cascade("system", "shutdown"),
        "Cascade from system: shutdown",
        {"type": "cascade", "source": "system", "reason": "shutdown"},
    ),
    (Timeout(5000), "Timeout after 5000ms", {"type": "timeout", "duration_ms": 5000}),
    (Failure("n1", "no pulse"), "Failure of n1: no pulse", {"type": "failure", "node": "n1", "evidence": "no pulse"}),
    (Recovery(("a", "b")), 'Recovery of ["a","b"]', {"type": "recovery", "recovered_nodes": ["a", "b"]}),
    (Recovery(('"',)), 'Recovery of ["\\""]', {"type": "recovery", "recovered_nodes": ['"']}),
]


@pytest.mark.parametrize(("trigger", "text", "stored"), TEXTS, ids=lambda each: str(each)[:20])
def test_a_trigger_has_the_originals_text_and_a_stored_form(trigger: Trigger, text: str, stored: dict[str, Any]):
    """The text is the original's, and the stored form tells the kinds apart and comes back equal."""
    assert str(trigger) == text
    assert msgspec.json.decode(msgspec.json.encode(trigger)) == stored
    assert msgspec.json.decode(msgspec.json.encode(trigger), type=Trigger) == trigger
    assert hash(trigger) == hash(msgspec.json.decode(msgspec.json.encode(trigger), type=Trigger))


@pytest.mark.parametrize("kind", [Command, Event, Cascade, Timeout, Failure, Recovery])
def test_a_trigger_with_missing_fields_cannot_be_made(kind: Any):
    """Each kind of trigger needs all of its fields."""
    with pytest.raises(TypeError, match="Missing required argument"):
        kind()


@pytest.mark.parametrize("wrong", ["drain", None, Command, MachineEvent("pay"), Payment(amount=1)], ids=repr)
def test_what_is_no_trigger_is_refused(wrong: Any):
    """A step needs a trigger, and nothing happens without one."""
    machine = StateMachine(NODE)
    with pytest.raises(InvalidData, match="trigger must be one of Command, Event, Cascade, Timeout, Failure, Recov"):
        machine.transition_to(Node.Computing, wrong)
    assert machine.current_state is Node.Ready
