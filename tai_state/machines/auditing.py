"""Recorded steps judged once more: what became of a machine, and whether its definition allows it. Pure.

All that rules, guards, obligations and invariants see of a step stands in its event: the states before and after it,
its trigger, its payload, and the facts in its metadata. What a caller gave as ``update`` does not: of such a step, the
data after it is taken as it is.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

import msgspec

from tai_state.errors import SerializationError, TaiStateError, UnknownMachineState
from tai_state.machines.catalogue import Catalogue
from tai_state.machines.contexts import Present
from tai_state.machines.definition import Definition
from tai_state.machines.effects import EFFECT_DONE, PendingEffect, effects_of, with_effects
from tai_state.machines.envelope import (
    MachineRecord,
    Opened,
    said_of,
    said_of_definition,
    seal,
    unseal,
)
from tai_state.machines.history import machine_in
from tai_state.machines.judging import Refusal, Step, StepKind, Verdict, judge_event, judge_step, judge_time_out
from tai_state.machines.payloads import BROUGHT, TO
from tai_state.machines.states import key_of, name_of
from tai_state.machines.succession import entered_us
from tai_state.machines.triggers import Event, Timeout, trigger_in
from tai_state.streams.codec import codec_of
from tai_state.values.events import JOIN_ACTION, NEWER_ACTION, RIVAL_ACTION, JsonEvent

_MERGES: Final = frozenset({JOIN_ACTION, NEWER_ACTION, RIVAL_ACTION})
"""The actions of events that bring in, or decide between, versions of a machine that others have written."""
_OWN: Final = frozenset(kind.value for kind in StepKind)
"""The actions of events that machines write."""


class Outcome(Enum):
    """What an event is to a machine; each value is the kind of a finding, if one is made of it."""

    NONE = "none"
    LEGAL = "legal"
    FORCED = "forced"
    MIGRATED = "migrated"
    MERGED = "merged"
    ILLEGAL = "illegal"
    PAST = "past"
    UNKNOWN = "unknown"
    UNCHECKED = "unchecked"


class Audit(msgspec.Struct, frozen=True):
    """What an event is to a machine, and what to say of it.

    Attributes:
        outcome: what it is.
        why: what to say of it; empty if there is nothing to say.
        missing: the hash of the definition that judging it takes and that is not at hand; None if it is.
    """

    outcome: Outcome
    why: str = ""
    missing: str | None = None


_NONE: Final = Audit(Outcome.NONE)
_UNJUDGED: Final = {StepKind.FORCE.value: Outcome.FORCED, StepKind.MIGRATE.value: Outcome.MIGRATED}


def audited(catalogue: Catalogue, event: JsonEvent, path: str, *, follows: bool) -> Audit:
    """Judge what an event made of a machine.

    Args:
        catalogue: the definitions at hand.
        event: the event.
        path: the path of the machine's state.
        follows: whether the state before the event is known: the event is the first of its stream, or the one before
            it is there. Otherwise its step is not judged.
    """
    before, after = machine_in(event.from_state), machine_in(event.to_state)
    if follows and event.action not in _OWN and (gone := _past(event, before, after)) is not None:
        return gone
    if after is None:
        return _NONE
    definition = catalogue.of(after)
    if definition is None:
        stored = said_of(after.name, after.version, after.definition)
        said = f"is a step under {stored}, which is not at hand"
        return Audit(Outcome.UNCHECKED, said, after.definition) if follows else _NONE
    if after.state not in definition.keys:
        what = f"leads to the state {after.state!r}, which {said_of_definition(definition)} does not know"
        return Audit(Outcome.UNKNOWN, what)
    if not follows:
        return _NONE
    if event.action in _MERGES:
        return _merged(definition, before, after)
    if event.action in _UNJUDGED:
        return Audit(_UNJUDGED[event.action])
    try:
        why = _not_allowed(definition, event, before, path)
    except SerializationError as error:
        return Audit(Outcome.UNCHECKED, f"cannot be judged by {said_of_definition(definition)}: it {error.what}")
    return Audit(Outcome.LEGAL) if why is None else Audit(Outcome.ILLEGAL, f"{_step(before, after)}: {why}")


def _past(event: JsonEvent, before: MachineRecord | None, after: MachineRecord | None) -> Audit | None:
    """What an event of another action than a machine's is; None if a machine stands after a merge."""
    is_merge = event.action in _MERGES
    if event.action == EFFECT_DONE and _is_completion(event, before, after):
        return _NONE
    if event.from_state == event.to_state or (before is None and after is None) or event.to_state is None:
        return _NONE
    if is_merge and after is not None:
        return _NONE if before == after else None
    wrote = f"{event.action!r} by {event.metadata.changed_by!r} (event {event.event_id!r})"
    if after is None:
        return Audit(Outcome.PAST, f"{wrote} wrote past the machine, and left none")
    return Audit(Outcome.PAST, f"{wrote} wrote past the machine: {_step(before, after)}")


def _is_completion(event: JsonEvent, before: MachineRecord | None, after: MachineRecord | None) -> bool:
    """Whether an event removed effects from a machine, and changed nothing else."""
    if before is None or after is None or event.from_state is None or event.to_state is None:
        return False
    is_removal = set(after.effects) < set(before.effects)
    return is_removal and with_effects(event.from_state, ()) == with_effects(event.to_state, ())


def _merged(definition: Definition[Any, Any], before: MachineRecord | None, after: MachineRecord) -> Audit:
    """A machine that a merge wrote: rules are not what decides, but they are named."""
    source = None if before is None else definition.keys.get(before.state)
    target = definition.keys[after.state]
    by_rule = ""
    if source is not None and source is not target and target not in definition.tables.exits[source]:
        rule = definition.tables.forbidden.get((source, target))
        by_rule = ", which no rule allows" if rule is None else f", which the rule {rule.name!r} forbids"
    return Audit(Outcome.MERGED, f"a merge led {_step(before, after)}{by_rule}")


def _step(before: MachineRecord | None, after: MachineRecord) -> str:
    return f"to {after.state!r}" if before is None else f"from {before.state!r} to {after.state!r}"


def _not_allowed(
    definition: Definition[Any, Any], event: JsonEvent, before: MachineRecord | None, path: str
) -> str | None:
    """Why a definition does not allow the step of an event; None if it does.

    Raises:
        SerializationError: what is stored does not fit the definition's models.
    """
    after = unseal(definition, event.to_state, path)
    try:
        if event.action == StepKind.INITIALIZE.value:
            begun = _begun(definition, after.present)
            return begun if isinstance(begun, str) else _difference(definition, begun, (), after, path)
        if before is None:
            return "there was no machine before it"
        taken = _taken(definition, event, after.present, path)
        if isinstance(taken, str):
            return taken
        added = () if taken.rule is None else effects_of(taken.rule, event.event_id)
        return _difference(definition, taken.after, before.effects + added, after, path)
    except SerializationError:
        raise
    except UnknownMachineState:
        return f"{said_of_definition(definition)} does not know the machine that it left"
    except TaiStateError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever a function of the definition raises, no step came of it
        return f"judging it raised {type(error).__name__}: {error}"


def _begun(definition: Definition[Any, Any], after: Present[Any, Any]) -> Present[Any, Any] | str:
    """A machine at its beginning, as its definition gives it, or why it does not begin so."""
    if key_of(after.state) not in definition.starts:
        return f"a machine begins in {', '.join(map(name_of, definition.starts))}"
    return Present(after.state, after.context)


def _taken(
    definition: Definition[Any, Any], event: JsonEvent, after: Present[Any, Any], path: str
) -> Step[Any, Any] | str:
    """A step, as its definition gives it, or why it refuses the step."""
    before = unseal(definition, event.from_state, path).present
    verdict = _verdict(definition, event, before, after, path)
    if isinstance(verdict, Refusal):
        return verdict.reason if verdict.rule in verdict.reason else f"{verdict.reason} (rule {verdict.rule!r})"
    return verdict


def _verdict(
    definition: Definition[Any, Any],
    event: JsonEvent,
    before: Present[Any, Any],
    after: Present[Any, Any],
    path: str,
) -> Verdict[Any, Any]:
    """The verdict on a step, judged as it was when it was asked for."""
    said, facts = event.payload, event.metadata.context
    trigger = trigger_in(said)
    if trigger is None:
        raise SerializationError(path, "holds an event that does not say what caused its step")
    if isinstance(trigger, Timeout) and TO not in said:
        return judge_time_out(definition, before, facts)
    if isinstance(trigger, Event) and TO not in said:
        edges = definition.tables.events.get((key_of(before.state), trigger.event))
        brings: Any = None if edges is None else edges[0][1].event
        brought = None if brings is None or brings.is_bare else codec_of(brings.payload).from_json(said[BROUGHT], path)
        return judge_event(definition, before, trigger.event, brought, facts)
    return judge_step(definition, before, after.state, trigger, facts, lambda _: after.context)


def _difference(
    definition: Definition[Any, Any],
    taken: Present[Any, Any],
    pending: tuple[PendingEffect, ...],
    found: Opened[Any, Any],
    path: str,
) -> str | None:
    """How a stored machine differs from the one that a step gives; None if it does not."""
    record = found.record
    entered = entered_us(record, path)
    due, stored = seal(definition, taken, entered), seal(definition, found.present, entered)
    for name in ("state", "epoch", "values"):
        expected, there = due["machine"].get(name), stored["machine"].get(name)
        if expected != there:
            told = "" if name == "values" else f": it is {there!r}, and should be {expected!r}"
            return f"its {name} is not what the step gives{told}"
    if record.definition == definition.hash and due["machine"].get("due") != record.due:
        return f"its time-out is due at {record.due}, and should be at {due['machine'].get('due')}"
    if record.effects != pending:
        return "its effects are not what the step gives"
    if record.values and "values" not in stored["machine"]:
        return f"{record.state!r} carries nothing, and it carries something"
    return None if due.get("context") == stored.get("context") else "its context is not what the step gives"
