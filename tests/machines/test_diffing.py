"""How two definitions differ."""

from __future__ import annotations

from typing import Any

import pytest

from tai_state import InvalidData
from tai_state.machines import (
    ComponentState,
    Invariant,
    PartDifference,
    ProofObligation,
    Severity,
    allow,
    define,
    described,
    forbid,
    time_out,
)

from ..support.machine_kit import NODE, ORDER, Closed, Node, Open, Order, Paid, node


def _yes(_: object) -> bool:
    return True


def _also(_: object) -> bool:
    return True


def _invariant(severity: Severity) -> Invariant[Any, Any]:
    return Invariant("calm", "is calm", severity, _yes)


EXTRA = allow(Node.Ready, Node.Committing, name="Extra", guard=_yes)


def test_what_does_not_differ():
    """A definition compared with its like is no difference, and says so."""
    found = NODE.diff(node())
    assert not found
    assert not found.decides
    assert str(found) == f"'node' 1 ({NODE.hash}) and 'node' 1 ({NODE.hash}) do not differ"
    assert (found.states, found.rules, found.fields) == (PartDifference(), PartDifference(), {})


def test_what_was_added_is_removed_the_other_way_round():
    """Rules, obligations and invariants of one side alone are added or removed, by their names."""
    more = node([EXTRA], obligations=[ProofObligation("quorum", _yes)], invariants=[_invariant(Severity.High)])
    there, back = NODE.diff(more), more.diff(NODE)
    assert there
    assert there.decides
    for part, name in (("rules", "Extra"), ("obligations", "quorum"), ("invariants", "calm")):
        assert getattr(there, part) == PartDifference(added=(name,))
        assert getattr(back, part) == PartDifference(removed=(name,))
    assert str(there).splitlines() == [
        f"from 'node' 1 ({NODE.hash}) to 'node' 1 ({more.hash}): they decide differently",
        "+ rule 'Extra'",
        "+ obligation 'quorum'",
        "+ invariant 'calm'",
    ]
    assert "- rule 'Extra'" in str(back).splitlines()


def test_what_changed_is_told_field_by_field():
    """Of what both have, each field that differs is told with its values before and after."""
    before = node(
        [EXTRA, time_out(Node.Ready, Node.Failed, seconds=1, name="T")], invariants=[_invariant(Severity.Info)]
    )
    other = allow([Node.Ready, Node.Degraded], Node.Committing, name="Extra", reason="now with one")
    after = node(
        [other, time_out(Node.Ready, Node.Failed, seconds=2.5, name="T")],
        invariants=[_invariant(Severity.High)],
        version=2,
        starts=[Node.Degraded],
    )
    found = before.diff(after)
    assert found.fields == {"version": (1, 2), "starts": (("Ready",), ("Ready", "Degraded"))}
    assert found.rules.changed == {
        "Extra": {
            "sources": (("Ready",), ("Ready", "Degraded")),
            "reason": (None, "now with one"),
            "guard": ("_yes", None),
        },
        "T": {"timeout_ms": (1000, 2500)},
    }
    assert found.invariants.changed == {"calm": {"severity": ("Info", "High")}}
    assert str(found).splitlines()[1:] == [
        "~ version: 1 -> 2",
        "~ starts: Ready -> Ready, Degraded",
        "~ rule 'Extra': sources: Ready -> Ready, Degraded",
        "~ rule 'Extra': reason: none -> 'now with one'",
        "~ rule 'Extra': guard: '_yes' -> none",
        "~ rule 'T': timeout_ms: 1000 -> 2500",
        "~ invariant 'calm': severity: 'Info' -> 'High'",
    ]


def test_a_difference_may_decide_nothing():
    """Other words and other functions' names are a difference, and the definitions decide alike."""
    one, two = (node([allow(Node.Ready, Node.Committing, name="Extra", guard=each)]) for each in (_yes, _also))
    found = one.diff(two)
    assert found
    assert not found.decides
    assert "they decide alike" in str(found)
    assert found.rules.changed == {"Extra": {"guard": ("_yes", "_also")}}


def test_states_are_compared_by_what_they_mean():
    """A state that is new, gone or described otherwise is told, and so is a terminal one that is no more."""
    before: Any = ComponentState("Job", {"On": described("on"), "Off": described("off", terminal=True)})  # type: ignore[arg-type]
    after: Any = ComponentState("Job", {"On": described("on, now"), "Away": described("away", terminal=True)})  # type: ignore[arg-type]
    one = define("job", before, initial=before.On, rules=[allow(before.On, before.Off, name="x")])
    two = define("job", after, initial=after.On, rules=[allow(after.On, after.Away, name="x")])
    found = one.diff(two)
    assert found.states == PartDifference(("Away",), ("Off",), {"On": {"description": ("on", "on, now")}})
    assert found.rules.changed == {"x": {"targets": (("Off",), ("Away",))}}


def test_the_order_of_rules_is_a_difference():
    """The first rule whose guard holds decides, so rules in another order are told."""
    other = allow(Node.Ready, Node.Committing, name="Other")
    one, two = node([EXTRA, other]), node([other, EXTRA])
    found = one.diff(two)
    assert found.rules == PartDifference(is_reordered=True)
    assert found.decides
    assert str(found).endswith("~ the rules stand in another order")


def test_definitions_of_different_machines_can_be_compared():
    """Everything may differ: name, context, states."""
    found = NODE.diff(ORDER)
    assert found.fields["name"] == ("node", "order")
    assert found.fields["context"] == (None, "Order")
    assert found.states.added == ("Open", "Paid", "Closed")
    assert found.states.removed == tuple(each.name for each in Node)


def test_what_is_no_definition_cannot_be_compared():
    """A definition is compared with another one only."""
    with pytest.raises(InvalidData, match="a definition can be compared with another one"):
        NODE.diff("node")  # type: ignore[arg-type]


def test_a_ban_is_compared_as_a_rule():
    """A rule that now forbids what it allowed is told as a change of this field."""
    rules = [allow(Open, Paid), allow(Paid, Closed)]
    one = define(
        "o", [Open, Paid, Closed], initial=Open(), context=Order, rules=[*rules, allow(Open, Closed, name="x")]
    )
    two = define(
        "o", [Open, Paid, Closed], initial=Open(), context=Order, rules=[*rules, forbid(Open, Closed, "no", name="x")]
    )
    assert one.diff(two).rules.changed == {"x": {"is_forbidding": (False, True), "reason": (None, "no")}}
