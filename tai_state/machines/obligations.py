"""What must be proven before a step, whichever rule allows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

import msgspec

from tai_state.machines.contexts import C, TransitionContext
from tai_state.machines.rules import Proof
from tai_state.machines.states import S


class ProofObligation(msgspec.Struct, Generic[S, C], frozen=True):
    """What must be proven before any step of a machine.

    Attributes:
        description: what it ensures; unique in its definition.
        verify: a pure function of the step: True, or False, or a text that says why not. If it raises, the step is
            refused with what it raised.
    """

    description: str
    verify: Callable[[TransitionContext[S, C]], Proof]
