"""Kettles: machines with time-outs. Also imported by programs that tests start."""

from __future__ import annotations

from typing import Any

from tai_state.machines import (
    ANY_STATE,
    Command,
    ComponentState,
    Definition,
    ProofObligation,
    TransitionContext,
    allow,
    define,
    described,
    forbid,
    time_out,
)


class Kettle(ComponentState):
    """A kettle that switches itself off."""

    Off = described("Is off")
    On = described("Heats")
    Hot = described("Keeps warm")
    Broken = described("Is broken", failure=True, terminal=True)


RULES = (
    allow(Kettle.Off, Kettle.On),
    allow(Kettle.On, [Kettle.Hot, Kettle.On]),
    allow([Kettle.On, Kettle.Hot], Kettle.Off),
    allow(ANY_STATE, Kettle.Broken),
    forbid(Kettle.Off, Kettle.Hot, "cold water is not kept warm"),
    time_out(Kettle.On, Kettle.Hot, seconds=30),
    time_out(Kettle.Hot, Kettle.Off, seconds=5),
)


def kettle(name: str = "kettle", **more: Any) -> Definition[Kettle, None]:
    """The definition of a kettle: it heats for 30 seconds, keeps warm for five, and is off."""
    return define(name, Kettle, initial=Kettle.Off, rules=RULES, **more)


def _is_not_stuck(step: TransitionContext[Kettle, None]) -> bool | str:
    return step.to_state is not Kettle.Hot or "it is stuck"


KETTLE = kettle()
STUCK = kettle("stuck kettle", obligations=[ProofObligation("it can switch", _is_not_stuck)])
ON = Command("switch it on")
