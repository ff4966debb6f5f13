"""What functions of a definition see: those that judge a step, and those that run after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeAlias, TypeVar

import msgspec

from tai_state.machines.states import S
from tai_state.machines.triggers import Trigger

C = TypeVar("C")
P = TypeVar("P")


class Present(msgspec.Struct, Generic[S, C], frozen=True, gc=False):
    """A machine as it stands, or as it would stand after a step.

    Attributes:
        state: its state.
        context: its data beside the state; None if its definition names none.
        epoch: how often it took a step that advances the epoch.
    """

    state: S
    context: C
    epoch: int = 0


class TransitionContext(msgspec.Struct, Generic[S, C], frozen=True, gc=False):
    """A step that is asked for, as guards and obligations see it.

    Attributes:
        from_state: the state before the step.
        to_state: the state after it.
        epoch: the epoch in which the step is asked for.
        context: the machine's data before the step.
        trigger: what causes the step.
        metadata: facts that the caller gave for those who judge the step.
    """

    from_state: S
    to_state: S
    epoch: int
    context: C
    trigger: Trigger
    metadata: Mapping[str, str] = {}

    def with_metadata(self, key: str, value: str) -> TransitionContext[S, C]:
        """The same with one more fact."""
        return msgspec.structs.replace(self, metadata={**self.metadata, key: value})

    def get_metadata(self, key: str) -> str | None:
        """A fact; None if it was not given."""
        return self.metadata.get(key)


class EventContext(TransitionContext[S, C], Generic[S, C, P], frozen=True, kw_only=True, gc=False):
    """A step that an event causes, as the guard of its edge sees it.

    Attributes:
        payload: what the event brought.
    """

    payload: P


class TakenStep(msgspec.Struct, Generic[S, C], frozen=True, kw_only=True):
    """A step that was taken, as the ``after_commit`` of its rule is told of it.

    Attributes:
        machine: the path of the machine's state; the name of its definition if it is in memory.
        before: the machine before the step.
        after: the machine after it.
        trigger: what caused it.
        rule: the name of the rule that allowed it.
        governor_id: the owner and namespace; None if the machine is in memory, also for the rest.
        state_id: the machine under it.
        version: the version of its state after the step.
        event_id: the id of the step's event.
    """

    machine: str
    before: Present[S, C]
    after: Present[S, C]
    trigger: Trigger
    rule: str
    governor_id: str | None = None
    state_id: str | None = None
    version: int | None = None
    event_id: str | None = None


AfterCommit: TypeAlias = Callable[[TakenStep[S, C]], Awaitable[None] | None]
"""What runs in this process once a step is committed: a function, or an asynchronous one."""
