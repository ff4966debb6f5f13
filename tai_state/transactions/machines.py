"""Machines in a transaction: their steps are judged and written together with all else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Generic, Protocol, cast

from tai_state.errors import InvalidData
from tai_state.machines.aftermath import run_after_commit
from tai_state.machines.asking import Asked, Attempt, Saying, asked_event, asked_force, asked_step, beginning, said_by
from tai_state.machines.checks import check_start
from tai_state.machines.contexts import C, P
from tai_state.machines.envelope import unseal
from tai_state.machines.events import MachineEvent
from tai_state.machines.persistent import PersistentMachine
from tai_state.machines.snapshots import MachineSnapshot, machine_snapshot
from tai_state.machines.states import S
from tai_state.machines.triggers import Trigger
from tai_state.streams.core import Core
from tai_state.streams.typed import TypedState
from tai_state.transactions.steps import Step, put_step
from tai_state.values.expected import NO_STATE, Expected
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.states import JsonSnapshot


class Writing(Protocol):
    """What a machine needs of its transaction."""

    core: Core

    async def get(self, state: TypedState[dict[str, Any]]) -> JsonSnapshot:
        """See ``Transaction.get``."""
        ...

    def who(self, state: TypedState[Any], metadata: ChangeMetadata | None) -> ChangeMetadata:
        """Who makes a write, and why."""
        ...

    def add(self, state: TypedState[Any], step: Step, expected: Expected | None = None) -> None:
        """Add a write."""
        ...


class MachineInTransaction(Generic[S, C]):
    """A machine in a transaction. Made by ``Transaction.machine``.

    Its steps wait in memory with the other writes. They are judged on the version that the transaction read, or else on
    the present one when it commits: if one is refused, nothing is written, and the refusal is raised.
    """

    def __init__(self, transaction: Writing, machine: PersistentMachine[S, C]) -> None:
        if not isinstance(machine, PersistentMachine):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidData(f"a machine must be what store.machine() returns, not {type(machine).__name__}")
        self._transaction = transaction
        self._machine = machine

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._machine.stream.state!r}>"

    async def get(self) -> MachineSnapshot[S, C]:
        """The machine as stored, or as this transaction will write it (then at its future version).

        Raises:
            TransitionRefused: a step that the transaction asked for is refused.
            Otherwise as ``Transaction.get`` and ``PersistentMachine.get``.
        """
        machine = self._machine
        snapshot = await self._transaction.get(machine)
        path = machine.stream.state
        return machine_snapshot(snapshot, unseal(machine.definition, snapshot.data, path), path)

    def initialize(
        self,
        metadata: ChangeMetadata | None = None,
        *,
        initial: S | None = None,
        context: C | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Create the machine at the end; see ``PersistentMachine.initialize``."""
        machine, core = self._machine, self._transaction.core
        definition, given = machine.definition, cast("C", context)
        present = check_start(definition, definition.initial if initial is None else initial, given)
        saying = self._saying(metadata, event_id, timestamp)
        composition = beginning(core, machine.stream, definition, present, saying)
        [made], data = composition.drafts, composition.data or {}
        step = put_step(core, machine.stream, made, saying.who, data, None)
        self._transaction.add(machine, step, NO_STATE)

    def transition_to(
        self,
        new_state: S,
        trigger: Trigger,
        metadata: ChangeMetadata | None = None,
        *,
        update: Callable[[C], C] | None = None,
        event_id: str | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Take a step at the end; see ``PersistentMachine.transition_to``."""
        saying = self._saying(metadata, event_id, timestamp)
        self._add(asked_step(self._machine.definition, new_state, trigger, update, saying))

    def fire(
        self,
        event: MachineEvent[P],
        payload: P,
        metadata: ChangeMetadata | None = None,
        *,
        event_id: str | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Take the step that an event leads to, at the end; see ``PersistentMachine.fire``."""
        saying = self._saying(metadata, event_id, timestamp)
        self._add(asked_event(self._machine.definition, event, payload, saying))

    def force_state(
        self,
        new_state: S,
        reason: str,
        metadata: ChangeMetadata | None = None,
        *,
        event_id: str | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Put the machine into a state at the end; see ``PersistentMachine.force_state``."""
        saying = self._saying(metadata, event_id, timestamp)
        self._add(asked_force(self._machine.definition, new_state, reason, saying))

    def _saying(self, metadata: ChangeMetadata | None, event_id: str | None, timestamp: datetime | None) -> Saying:
        return said_by(self._transaction.who(self._machine, metadata), metadata, event_id, timestamp)

    def _add(self, asked: Asked[S, C]) -> None:
        machine, transaction = self._machine, self._transaction
        attempt = Attempt(transaction.core, machine.stream, machine.definition, asked)
        step = Step(
            (attempt.made,),
            asked.intent.metadata,
            attempt.compose,
            needs_state=True,
            must_live=True,
            after_commit=partial(run_after_commit, machine.stream, attempt),
        )
        transaction.add(machine, step)
