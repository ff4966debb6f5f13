"""Machines in a merge: each is taken as a whole, its context is merged field by field, and its rules have a say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from tai_state.conflicts.merging import FieldMerge, FieldStrategy, checked_fields
from tai_state.conflicts.resolutions import Resolution, same
from tai_state.conflicts.resolvers import LastWriteWins, Resolver, check_resolver, path_of, ranked
from tai_state.conflicts.rivals import Rival
from tai_state.errors import ConflictResolutionFailed, SerializationError
from tai_state.machines.catalogue import Catalogue, Definitions
from tai_state.machines.effects import PendingEffect, with_effects
from tai_state.machines.envelope import MachineRecord, unseal
from tai_state.machines.history import machine_in
from tai_state.values.states import with_data

_LAST_WRITE_WINS: Final = LastWriteWins()
_MAKE_EQUAL: Final = "write to one store what is right in the other one, and sync again"


class MachineMerge:
    """Merges machines: each is taken as a whole, with its state, epoch and time-out, and its context field by field.

    A machine that one side moved is taken from that side. If both moved it, the later one is taken; later as in
    :class:`~tai_state.conflicts.resolvers.LastWriteWins`. Fields of the context are merged as by
    :class:`~tai_state.conflicts.merging.FieldMerge`. A change wins over a deletion. Recording effects as
    done moves no machine: a step on the other side is taken, and these effects stay done.

    From the state on the side that is not taken, the merge is a step. It is taken if no rule allows it, but not if a
    rule forbids it, nor if the merged context does not fit its model or an invariant would not hold. Then
    ``ConflictResolutionFailed`` says why, and a sync goes on with the other states. A machine that was forced into its
    state since both sides parted is taken against all rules and invariants. So a forced step resolves the conflict.

    Of several definitions of one name, the one counts under which the machine was written that is taken; if that one
    is not given, or does not know both states, the newest one. If that does not know them, a merge that needs a
    definition fails.

    Args:
        definitions: the definition of the machines, or several; also older ones, under which machines are stored.
        strategies: by field of the context, as for ``FieldMerge``.
        default: the strategy for all other fields of the context.
        removal_wins: whether a removal or a deletion wins over a change.
        others: decides between versions of states that are no machines.

    Raises:
        InvalidData: an argument is not valid.
        ValueError: there is no strategy of that name.
    """

    def __init__(
        self,
        definitions: Definitions,
        strategies: Mapping[str, FieldStrategy] | None = None,
        default: FieldStrategy = "last",
        *,
        removal_wins: bool = False,
        others: Resolver = _LAST_WRITE_WINS,
    ) -> None:
        self._catalogue = Catalogue(definitions)
        fields: dict[str, FieldStrategy] = {"machine": "last"}
        fields.update({f"context.{field}": each for field, each in checked_fields(strategies).items()})
        self._fields = FieldMerge(fields, default, removal_wins=removal_wins)
        check_resolver(others)
        self._others = others

    def resolve(self, ours: Rival, theirs: Rival, base: dict[str, Any] | None) -> Resolution:
        """See :meth:`Resolver.resolve`.

        Raises:
            ConflictResolutionFailed: the two machines cannot be one.
        """
        resolver = self.chosen(ours, theirs)
        if resolver is self._others:
            return resolver.resolve(ours, theirs, base)
        done = [effect for side in (ours, theirs) for effect in _only_done(side.data, base)]
        one, other = _as_pending(ours, base), _as_pending(theirs, base)
        merged = resolver.resolve(one, other, base)
        what = self._objection(*ranked(one, other), base, merged.data)
        if what is not None:
            raise ConflictResolutionFailed(path_of(ours), (ours.clock, theirs.clock), what)
        return msgspec.structs.replace(merged, data=_without(merged.data, done), strategy="machine_merge")

    def chosen(self, ours: Rival, theirs: Rival) -> Resolver:
        """What merges two versions before rules are asked; not part of the public interface."""
        return self._others if all(machine_in(each.data) is None for each in (ours, theirs)) else self._fields

    def _objection(
        self, earlier: Rival, later: Rival, base: dict[str, Any] | None, merged: dict[str, Any] | None
    ) -> str | None:
        """Why two versions cannot be merged, and what to do; None if they can."""
        sides = earlier.data, later.data
        if merged is None or None in sides or any(same(each, base) for each in sides):
            return None  # at most one of them has anything to keep
        before, after, taken = machine_in(earlier.data), machine_in(later.data), machine_in(merged)
        if before is None or after is None or taken is None:
            return f"one of them is no machine: {_MAKE_EQUAL}"
        is_forced = _is_forced(taken, base, before, after)
        is_same = (before.name, before.state) == (after.name, after.state)
        is_step = not is_forced and not is_same and not _is_still(base, before, after)
        if not is_step and any(same(merged, each) for each in sides):
            return None
        if before.name != after.name:
            return f"they are machines of two kinds, {before.name!r} and {after.name!r}: {_MAKE_EQUAL}"
        states = (before.state, after.state) if is_step else (taken.state,)
        definition = self._catalogue.merging(taken, states)
        if definition is None:
            known = f"the machine {taken.name!r} in {' and in '.join(states)}"
            return f"no definition at hand knows {known}: give MachineMerge the one that wrote it"
        source, target = definition.keys[states[0]], definition.keys[states[-1]]
        if is_step and (rule := definition.tables.forbidden.get((source, target))) is not None:
            step = f"the step from {before.state} to {after.state} that would merge them is forbidden"
            return f"{step}: {rule.refusal} (rule {rule.name!r}): {_advice(after)}"
        try:
            present = unseal(definition, merged, path_of(later)).present
        except SerializationError as error:
            return f"the merged machine {error.what}: {_MAKE_EQUAL}"
        found = () if is_forced else (each.violation(present) for each in definition.invariants)
        broken = next((violation for violation in found if violation is not None), None)
        return None if broken is None else f"their merge would break an invariant: {broken}: {_advice(after)}"


def _only_done(data: dict[str, Any] | None, base: dict[str, Any] | None) -> tuple[PendingEffect, ...]:
    """The effects that one side recorded as done, if it did nothing else to the machine."""
    known, machine = machine_in(base), machine_in(data)
    if known is None or machine is None or not set(machine.effects) < set(known.effects):
        return ()
    if msgspec.structs.replace(machine, effects=known.effects) != known:
        return ()
    return tuple([effect for effect in known.effects if effect not in machine.effects])


def _as_pending(side: Rival, base: dict[str, Any] | None) -> Rival:
    """A version with all effects pending that both sides knew, if it only recorded some as done: that is no step."""
    done, known = _only_done(side.data, base), machine_in(base)
    if not done or side.data is None or known is None:
        return side
    data = with_effects(side.data, known.effects)
    return msgspec.structs.replace(side, snapshot=with_data(side.snapshot, data))


def _without(data: dict[str, Any] | None, done: Sequence[PendingEffect]) -> dict[str, Any] | None:
    """The data of a merged machine without effects that are done."""
    machine = machine_in(data)
    if not done or data is None or machine is None:
        return data
    return with_effects(data, [effect for effect in machine.effects if effect not in done])


def _is_still(base: dict[str, Any] | None, *machines: MachineRecord) -> bool:
    """Whether one of the machines is as both sides knew it: that side has not moved it."""
    known = machine_in(base)
    return known is not None and known in machines


def _is_forced(taken: MachineRecord, base: dict[str, Any] | None, before: MachineRecord, after: MachineRecord) -> bool:
    """Whether the machine that is taken was forced into its state; if both moved it, since they parted.

    Without a base, that is so if it entered its state last.
    """
    entered = sorted((before.entered_at, after.entered_at))
    return taken.is_forced and (base is not None or taken.entered_at == entered[1] != entered[0])


def _advice(after: MachineRecord) -> str:
    where = f"in the store that changed it last, where it is in {after.state}"
    return f"put it into the right state by `force_state`, {where}, and sync again"
