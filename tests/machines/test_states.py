"""States: members of an enum, and models that carry data."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from tai_state import InvalidData
from tai_state.machines import Command, ComponentState, DataState, MachineState, StateMachine, described

from ..support.machine_kit import NODE, ORDER, Closed, Lamp, Node, Open, Order, Paid


def test_a_member_says_what_it_means():
    """A state says its description, and whether it fails, works, is final, and takes new work."""
    facts = {
        each.name: (each.is_failure_state, each.is_operational, each.is_terminal, each.accepts_new_work)
        for each in Node
    }
    assert facts == {
        "Ready": (False, True, False, True),
        "Computing": (False, True, False, False),
        "Committing": (False, True, False, False),
        "Degraded": (False, False, False, False),
        "Failed": (True, False, True, False),
    }
    assert Node.Failed.description == "Has failed"


def test_the_kind_of_component_is_the_class_unless_it_is_said():
    """The kind of component is the name of the enum, or of the base of classes with data, unless it is given."""
    assert Node.Ready.component_type == "Coordinator"
    assert Lamp.Lit.component_type == "Lamp"
    assert Paid(receipt="x").component_type == "OrderState"
    assert {state.component_type for state in (Open(), Closed())} == {"OrderState"}


def test_states_are_shown_by_their_names():
    """The text of a state is its name alone, and its representation says of which class it is."""
    assert [str(Node.Ready), repr(Node.Ready), f"{Node.Ready}"] == ["Ready", "Node.Ready", "Ready"]
    assert [str(Paid(receipt="secret")), Paid(receipt="x").name] == ["Paid", "Paid"]


@pytest.mark.parametrize("state", [Node.Ready, Paid(receipt="x")], ids=str)
def test_states_survive_copies_and_pickles(state: Any):
    """A copied or pickled member is that very member, and a state with data is equal to its copy."""
    for again in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert again == state
        assert hash(again) == hash(state)
        assert again is state or not isinstance(state, Node)


def test_members_of_two_enums_differ():
    """States of two machines are not equal, even if they share a name."""
    assert Node.Ready != Lamp.Ready
    assert isinstance(Node.Ready, MachineState)
    assert isinstance(Open(), MachineState)


def test_members_with_one_meaning_are_still_two():
    """Two members whose facts are the same are two states."""

    class Twins(ComponentState):
        One = described("the same")
        Two = described("the same")

    assert [each.name for each in Twins] == ["One", "Two"]


def test_a_member_is_what_described_returns():
    """A member that is anything else is refused when the enum is made."""
    with pytest.raises(TypeError, match="must be what described"):

        class Wrong(ComponentState):
            Open = "open"

    with pytest.raises(TypeError, match="description must be text"):
        described(5)  # type: ignore[arg-type]


def test_a_state_with_data_does_not_change_and_takes_only_its_own():
    """Data that belongs to another state cannot be given, what a state needs cannot be left out, and none changes."""
    paid: Any = Paid(receipt="x")
    with pytest.raises(ValidationError):
        paid.receipt = "y"
    wrong: Any = Open
    with pytest.raises(ValidationError):
        wrong(receipt="x")
    wrong = Paid
    with pytest.raises(ValidationError):
        wrong()


@pytest.mark.parametrize("wrong", ["Ready", None, 3, Lamp.Ready, Node, Open(), ["Ready"]], ids=repr)
def test_what_is_no_state_of_the_machine_is_refused(wrong: Any):
    """Whatever is no state of the definition is refused by name, where it is asked for, forced or begun in."""
    machine = StateMachine(NODE)
    for ask in (machine.can_transition_to, lambda state: machine.force_state(state, "why"), NODE.knows):
        if ask == NODE.knows:
            assert not ask(wrong)
            continue
        with pytest.raises(InvalidData, match=r"is not a state of the machine 'node', whose states are Ready, Comp"):
            ask(wrong)
    if wrong is not None:
        with pytest.raises(InvalidData, match="is not a state"):
            StateMachine(NODE, initial=wrong)
    assert len(machine.transition_history) == 1


def test_a_class_is_no_state_where_data_belongs_to_it():
    """A class of states names a state in rules, and is no state itself."""
    machine = StateMachine(ORDER, context=Order())
    wrong: Any = Closed
    with pytest.raises(InvalidData, match="is not a state"):
        machine.transition_to(wrong, Command("close"))
    with pytest.raises(InvalidData, match="is not a state"):
        machine.force_state(wrong, "why")


def test_an_undescribed_base_says_so():
    """A bare base of states has no facts to show."""
    with pytest.raises(NotImplementedError):
        MachineState().description  # noqa: B018

    class Bare(DataState):
        pass

    with pytest.raises(AttributeError):
        Bare().is_terminal  # noqa: B018
