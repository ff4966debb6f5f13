"""How two definitions differ: part by part and field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tai_state.machines.outline import Outline, deciding_hash

_PARTS: Final = ("states", "rules", "obligations", "invariants")


class PartDifference(msgspec.Struct, frozen=True):
    """How the states, rules, obligations or invariants of two definitions differ; each by its name.

    Attributes:
        added: those that only the second definition has.
        removed: those that only the first one has.
        changed: those that both have, each with the fields that differ: their values before and after.
        is_reordered: whether those that both have stand in another order. Of rules, the first one that applies decides.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: Mapping[str, Mapping[str, tuple[Any, Any]]] = {}
    is_reordered: bool = False

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.is_reordered)


class DefinitionDifference(msgspec.Struct, frozen=True):
    """How two definitions differ; false if they do not. Its text has a line for each difference.

    Attributes:
        names: what the two are called: name, version and hash.
        decides: whether their hashes differ: they decide differently on steps, or may.
        fields: what differs of the definition as a whole (name, version, starts, context): before and after.
        states: how the states differ.
        rules: how the rules differ.
        obligations: how the obligations differ.
        invariants: how the invariants differ.
    """

    names: tuple[str, str]
    decides: bool
    fields: Mapping[str, tuple[Any, Any]]
    states: PartDifference
    rules: PartDifference
    obligations: PartDifference
    invariants: PartDifference

    def __bool__(self) -> bool:
        return bool(self.fields or any(getattr(self, part) for part in _PARTS))

    def __str__(self) -> str:
        before, after = self.names
        if not self:
            return f"{before} and {after} do not differ"
        effect = "they decide differently" if self.decides else "they decide alike"
        lines = [f"from {before} to {after}: {effect}"]
        lines += [_change(field, *values) for field, values in self.fields.items()]
        for part in _PARTS:
            lines += _lines(part, getattr(self, part))
        return "\n".join(lines)


def difference_of(before: Outline, after: Outline) -> DefinitionDifference:
    """How two definitions differ.

    Args:
        before: the outline of the first definition.
        after: the outline of the second one.
    """
    hashes = deciding_hash(before), deciding_hash(after)
    one, other = msgspec.structs.asdict(before), msgspec.structs.asdict(after)
    return DefinitionDifference(
        (f"{before.name!r} {before.version} ({hashes[0]})", f"{after.name!r} {after.version} ({hashes[1]})"),
        hashes[0] != hashes[1],
        _differing({key: one[key] for key in one if key not in _PARTS}, other),
        *(_part(_named(one[part]), _named(other[part])) for part in _PARTS),
    )


def _named(part: Any) -> dict[str, dict[str, Any]]:
    """The members of a part by their names, each as its fields."""
    if isinstance(part, dict):
        invariants: Any = part  # pyright: ignore[reportUnknownVariableType]
        return {name: {"description": what, "severity": severity} for name, (what, severity) in invariants.items()}
    return {
        each if isinstance(each, str) else each.name: {} if isinstance(each, str) else msgspec.structs.asdict(each)
        for each in part
    }


def _part(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> PartDifference:
    changed = {name: _differing(before[name], after[name]) for name in before if name in after}
    return PartDifference(
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
        {name: fields for name, fields in changed.items() if fields},
        [name for name in before if name in after] != [name for name in after if name in before],
    )


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {field: (value, after[field]) for field, value in before.items() if value != after[field]}


def _lines(part: str, difference: PartDifference) -> list[str]:
    one = part.removesuffix("s")
    lines = [f"+ {one} {name!r}" for name in difference.added]
    lines += [f"- {one} {name!r}" for name in difference.removed]
    for name, fields in difference.changed.items():
        lines += [_change(f"{one} {name!r}: {field}", *values) for field, values in fields.items()]
    return [*lines, f"~ the {part} stand in another order"] if difference.is_reordered else lines


def _change(what: str, before: Any, after: Any) -> str:
    return f"~ {what}: {_said(before)} -> {_said(after)}"


def _said(value: Any) -> str:
    if value is None:
        return "none"
    return ", ".join(value) or "none" if isinstance(value, tuple) else repr(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
