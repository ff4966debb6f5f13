"""Named effects of steps: they stand in a machine's state from the step's commit until they are done. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tai_state.machines.rules import Rule

EFFECTS_MAX: Final = 100
"""How many effects of one machine may be pending: they are part of its state, which every step writes anew."""

EFFECT_DONE: Final = "effect"
"""The action of the event that records that an effect is done."""


class PendingEffect(msgspec.Struct, frozen=True, gc=False):
    """An effect of a step that is not done yet.

    Attributes:
        id: its id, made of the id of the step's event and its name. It is the same whenever the effect is tried, and
            if the call that took the step is repeated; pass it on, so that what has the effect knows it again.
        name: its name, as the rule gives it.
    """

    id: str
    name: str


def effects_of(rule: Rule[Any, Any], event_id: str) -> tuple[PendingEffect, ...]:
    """The effects of a step.

    Args:
        rule: the rule that allows the step.
        event_id: the id of the step's event.
    """
    return tuple([PendingEffect(f"{event_id}:{name}", name) for name in rule.effects])


def with_effects(data: dict[str, Any], effects: Sequence[PendingEffect]) -> dict[str, Any]:
    """The data of a machine's state with these effects pending, and nothing else changed."""
    machine = {key: value for key, value in data["machine"].items() if key != "effects"}
    if effects:
        machine["effects"] = msgspec.to_builtins([*effects])
    return {**data, "machine": machine}
