"""Definitions: what is refused as one, and what tells two of them apart."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tai_state.errors import InvalidDefinition
from tai_state.machines import (
    ANY_STATE,
    ComponentState,
    DataState,
    Invariant,
    MachineEvent,
    ProofObligation,
    Severity,
    allow,
    define,
    described,
    forbid,
    time_out,
)
from tai_state.machines.outline import Outline
from tai_state.machines.soundness import STATES_MAX

from ..support.machine_kit import NODE, NODE_RULES, ORDER, Closed, Lamp, Node, Open, Order, Paid, Payment, node

READY, COMPUTING, COMMITTING, DEGRADED, FAILED = Node


async def _slow(_: object) -> bool:
    return True


class Unsaid(DataState):
    """A state that does not say what it is."""


def _node(*rules: Any, **more: Any) -> Any:
    return lambda: node(rules, **more)


def _order(*rules: Any, **more: Any) -> Any:
    options: dict[str, Any] = {"initial": Open(), "context": Order, **more}
    return lambda: define(
        "order", [Open, Paid, Closed], rules=[allow(Open, Paid), allow(Paid, Closed), *rules], **options
    )


def _define(states: Any, **more: Any) -> Any:
    options: dict[str, Any] = {"initial": READY, "rules": NODE_RULES, **more}
    return lambda: define("node", states, **options)


YES = ProofObligation[Any, Any]("yes", lambda _: True)
WELL = Invariant[Any, Any]("well", "is well", Severity.High, lambda _: True)

WRONG: dict[str, tuple[Any, str]] = {
    "no name": (lambda: define("", Node, initial=READY, rules=NODE_RULES), "must be a text that is not empty"),
    "a name that is no text": (lambda: define(5, Node, initial=READY, rules=NODE_RULES), "must be a text"),
    "version 0": (_node(version=0), "version must be a whole number from 1 up, not 0"),
    "version True": (_node(version=True), "version must be a whole number"),
    "version one": (_node(version="1"), "version must be a whole number"),
    "states that are none": (_define(5), "states must be an enum of ComponentState, or classes of DataState: 5"),
    "names of states": (_define("ab"), "states must be an enum of ComponentState, or classes of DataState: 'a'"),
    "members": (_define([READY, COMPUTING]), "states must be an enum of ComponentState"),
    "no states": (_define([]), "has 1 to 1000 states, and this one has 0"),
    "a state that says nothing": (_define([Open, Unsaid], initial=Open()), "Unsaid does not say what it is"),
    "states twice": (_define([Open, Open], initial=Open()), "two states are named 'Open'"),
    "an initial state of another machine": (_define(Node, initial=Lamp.Ready), "initial or starts names Lamp.Ready"),
    "an initial class": (_order(initial=Open), "initial must be a state with its data, not the class Open"),
    "an initial state by its name": (_define(Node, initial="Ready"), "initial must be a state of this machine, not"),
    "a start of another machine": (_node(starts=[Lamp.Lit]), "initial or starts names Lamp.Lit, which is not a state"),
    "a dead end of another machine": (_node(dead_ends=[Lamp.Lit]), "dead_ends names Lamp.Lit"),
    "unreached of another machine": (_node(unreached=[Lamp.Lit]), "unreached names Lamp.Lit"),
    "a rule of another machine": (_node(allow(Lamp.Ready, Lamp.Lit)), "the rule 'ReadyToLit' names Lamp.Ready"),
    "an exception for another machine": (
        _node(forbid(ANY_STATE, COMPUTING, "x", unless_from=[Lamp.Lit])),
        "'NoAnyToComputing' names Lamp.Lit",
    ),
    "rules that are none": (_define(Node, rules=["x"]), "rules must be a list of Rule, and has 'x'"),
    "obligations that are none": (_node(obligations=[WELL]), "obligations must be a list of ProofObligation"),
    "invariants that are none": (_node(invariants=[YES]), "invariants must be a list of Invariant"),
    "two rules of one name": (_node(allow(READY, COMPUTING)), "'ReadyToComputing': give one another name"),
    "two obligations of one name": (_node(obligations=[YES, YES]), "two obligations are named 'yes'"),
    "two invariants of one name": (_node(invariants=[WELL, WELL]), "two invariants are named 'well'"),
    "a severity that is none": (_node(invariants=[Invariant("w", "w", 9, bool)]), "severity of the invariant 'w' must"),
    "a guard that is none": (_node(allow(READY, FAILED, guard=True)), "the guard of the rule 'ReadyToFailed' must"),
    "an asynchronous guard": (_node(allow(READY, FAILED, guard=_slow)), "the guard of the rule 'ReadyToFailed' must"),
    "an update that is none": (_order(allow(Open, Closed, update=Order())), "the update of the rule 'OpenToClosed'"),
    "an enter that is none": (
        _order(allow(Open, Closed, on=MachineEvent("x"), enter=Closed())),
        "the enter of the rule 'OpenToClosed on x' must",
    ),
    "an obligation that is none": (_node(obligations=[ProofObligation("x", True)]), "the obligation 'x' must"),
    "an asynchronous invariant": (
        _node(invariants=[Invariant("x", "x", Severity.Info, _slow)]),
        "the invariant 'x' must be a plain function",
    ),
    "enter without an event": (_order(allow(Open, Closed, enter=Closed)), "has `enter`, and no event"),
    "an update of nothing": (_node(allow(READY, FAILED, update=lambda _: None)), "updates a context, and the"),
    "two events of one name": (
        _order(allow(Open, Closed, on=MachineEvent("x")), allow(Paid, Closed, on=MachineEvent("x", Payment))),
        "two events are named 'x', with different payloads",
    ),
    "an exit from a terminal state": (_node(allow(FAILED, READY)), "'FailedToReady' leads out of Failed, which"),
    "an exit of several": (_node(allow([READY, FAILED], DEGRADED)), "leads out of Failed, which is terminal"),
    "a time-out of a terminal state": (_node(time_out(FAILED, READY, seconds=1)), "leads out of Failed"),
    "a contradiction": (
        _node(forbid(READY, COMPUTING, "never")),
        "the rule 'ReadyToComputing' can never apply: 'NoReadyToComputing' forbids it",
    ),
    "half a contradiction": (
        _node(forbid(READY, DEGRADED, "never")),
        "'Degrade' allows Ready to Degraded, and 'NoReadyToDegraded' forbids it",
    ),
    "a rule that nothing is left of": (_node(forbid(ANY_STATE, FAILED, "never")), "'AnyToFailed' can never apply"),
    "a ban that nothing is left of": (
        _node(forbid(READY, COMMITTING, "never", unless_from=[READY])),
        "'NoReadyToCommitting' can never apply: it names no pair of states",
    ),
    "two time-outs of one state": (
        _node(time_out(READY, FAILED, seconds=1), time_out(READY, DEGRADED, seconds=2)),
        "the state Ready has two time-outs: 'ReadyToFailed in time', 'ReadyToDegraded in time'",
    ),
    "an event that brings no data for its state": (
        _order(allow(Open, Paid, on=MachineEvent("x"))),
        "the rule 'OpenToPaid on x' leads to Paid and does not give its data",
    ),
    "a timer to a state with data": (_order(time_out(Open, Paid, seconds=1)), "leads to Paid and does not give"),
    "a state that no start leads to": (
        _define(Node, rules=[each for each in NODE_RULES if each.name != "ComputingToCommitting"]),
        "no start leads to Committing: add a rule, or declare it in `unreached`",
    ),
    "a trap": (
        _define(Node, rules=[each for each in NODE_RULES if each.name not in {"DegradedToReady", "AnyToFailed"}],
                unreached=[FAILED]),
        "nothing leaves Degraded: make it terminal, or declare it in `dead_ends`",
    ),
    "a trap with a step to itself": (
        lambda: define("lamp", Lamp, initial=Lamp.Ready, rules=[allow(ANY_STATE, Lamp.Lit)]),
        "nothing leaves Lit",
    ),
    "a reason that is no text": (_node(allow(READY, FAILED, reason=5)), "a name, a description or a reason is no text"),
    "a name that is no text of a rule": (_node(allow(READY, FAILED, name=5)), "is no text"),
    "half a surrogate pair": (_node(allow(READY, FAILED, name="\ud800")), "is no text"),
    "half a pair in the name": (lambda: define("\ud800", Node, initial=READY, rules=NODE_RULES), "is no text"),
    "an effect that is no text": (_node(allow(READY, FAILED, effects=[5])), "is no text"),
    "an effect without a name": (_node(allow(READY, FAILED, effects=[""])), "is named '': a name is not empty"),
    "an effect with a colon": (_node(time_out(READY, FAILED, seconds=1, effects=["a:b"])), "has no colon"),
    "an epoch that is none": (_node(allow(READY, FAILED, advances_epoch="yes")), "is no text"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_no_definition(what: str):
    """A definition that contradicts itself, or has a part that can never be, is refused, and the error says which."""
    make, message = WRONG[what]
    with pytest.raises(InvalidDefinition) as raised:
        make()
    assert message in str(raised.value)
    str(raised.value).encode()


@pytest.mark.filterwarnings("ignore:Field name")
def test_a_field_must_not_hide_what_every_state_has():
    """A field named as something that every state has could not be read, so the definition is refused."""
    base: Any = {"__module__": __name__, "facts": described("has a name"), "__annotations__": {"name": str}}
    named: Any = type("Named", (DataState,), base)
    assert named(name="secret").name == "Named"
    with pytest.raises(InvalidDefinition, match="the field 'name' of Named has a name that every state has"):
        define("named", [named], initial=named(name="x"), rules=[], dead_ends=[named])


def _many(count: int) -> Any:
    states: Any = ComponentState("Many", {f"S{number}": described("") for number in range(count)})  # type: ignore[arg-type]
    members = list(states)
    ring = [allow(one, two) for one, two in zip(members, members[1:] + members[:1], strict=True)]
    return define("many", states, initial=members[0], rules=ring)


def test_a_definition_has_a_thousand_states_at_most():
    """A thousand states are a definition, and one more is none."""
    assert len(_many(STATES_MAX).states) == 1_000
    with pytest.raises(InvalidDefinition, match="has 1 to 1000 states, and this one has 1001"):
        _many(STATES_MAX + 1)


def test_traps_and_unreached_states_may_be_meant():
    """What is declared is no mistake: dead ends, states entered by force alone, further starts."""
    rules = [allow(READY, COMPUTING)]
    more: dict[str, Any] = {"dead_ends": [COMPUTING, COMMITTING, DEGRADED], "unreached": [FAILED, DEGRADED]}
    definition = define("node", Node, initial=READY, rules=rules, starts=[COMMITTING], **more)
    assert definition.starts == (READY, COMMITTING)
    assert definition.allowed(COMPUTING) == ()
    with pytest.raises(InvalidDefinition, match="no start leads to Committing"):
        define("node", Node, initial=READY, rules=rules, **more)


def test_a_broad_rule_yields_to_a_ban():
    """A rule from any state may be forbidden in part; only one that names its states contradicts a ban."""
    definition = node([allow(ANY_STATE, COMMITTING, name="any"), forbid(DEGRADED, COMMITTING, "recover first")])
    assert "Committing" in definition.allowed(READY)
    assert "Committing" not in definition.allowed(DEGRADED)


def test_definitions_are_equal_if_they_say_the_same():
    """Two definitions made alike are equal and share a hash, and each knows its own states only."""
    one, two = node(), node()
    assert one == two
    assert hash(one) == hash(two)
    assert {one: 1}[two] == 1
    assert one != node(version=2)
    assert one != "node"
    assert repr(one) == f"<Definition 'node' version 1, 5 states, hash {one.hash}>"
    assert one.knows(READY)
    assert not one.knows(Lamp.Ready)
    assert ORDER.knows(Open())
    assert not ORDER.knows(Open)
    assert one.allowed(Lamp.Ready) == ()  # type: ignore[arg-type]
    assert ORDER.allowed(Open()) == ("Paid", "Closed")


def test_a_hash_is_the_same_in_every_process_and_release():
    """The hash is stored with each machine, so this one must never change."""
    assert (NODE.hash, ORDER.hash) == ("9caa04011f8558b8", "ad522d992f246006")


def _guard(_: object) -> bool:
    return True


OTHER_HASH: dict[str, Any] = {
    "a rule": node([allow(READY, COMMITTING)]),
    "a ban": node([forbid(READY, COMMITTING, "x")]),
    "a guard": node([allow(READY, COMMITTING, guard=_guard)]),
    "an event": node([allow(READY, COMMITTING, name="ReadyToCommitting", on=MachineEvent("x"))]),
    "a time-out": node([time_out(READY, COMMITTING, seconds=1, name="ReadyToCommitting")]),
    "a longer time-out": node([time_out(READY, COMMITTING, seconds=2, name="ReadyToCommitting")]),
    "an epoch": node([allow(READY, COMMITTING, advances_epoch=True)]),
    "an effect": node([allow(READY, COMMITTING, effects=["x"])]),
    "a start": node(starts=[DEGRADED]),
    "an obligation": node(obligations=[YES]),
    "an invariant": node(invariants=[WELL]),
}


def test_the_hash_tells_what_decides():
    """Versions, reasons, descriptions and functions' names do not change the hash, and all that decides does."""
    assert node(version=7).hash == NODE.hash
    reasoned = [node([allow(READY, COMMITTING, reason=each)]) for each in ("why", "because")]
    assert reasoned[0].hash == reasoned[1].hash
    named = [node([allow(READY, COMMITTING, guard=each)]) for each in (_guard, lambda _: True)]
    assert named[0].hash == named[1].hash
    hashes = [NODE.hash, *(each.hash for each in OTHER_HASH.values())]
    assert len({*hashes}) == len(hashes)


def test_an_outline_is_json():
    """An outline can be stored, and read back equal."""
    for definition in (NODE, ORDER, *OTHER_HASH.values()):
        outline = definition.outline
        assert msgspec.json.decode(msgspec.json.encode(outline), type=Outline) == outline
