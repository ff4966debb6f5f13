"""Wrong uses of a user's machines: both type checkers must reject each line that ends with ``wrong``, and no other."""

from typing import Any

from typing_machines import (
    BELL,
    DOOR,
    ORDER,
    PAY,
    Door,
    Invoice,
    Lamp,
    Lost,
    Open,
    Paid,
    Payment,
    announce,
    has_key,
    is_enough,
    is_sane,
    is_sound,
    paid,
    ring,
)

from tai_state.machines import (
    Cascade,
    Command,
    Definition,
    Failure,
    Invariant,
    PersistentMachine,
    ProofObligation,
    Recovery,
    Rule,
    Severity,
    StateMachine,
    Timeout,
    allow,
    define,
    described,
    forbid,
    to_mermaid,
)

GO = Command("go")
door = StateMachine(DOOR)
order = StateMachine(ORDER, context=Invoice())
RULES: list[Rule[Door, None]] = [allow(Door.Shut, Door.Ajar)]

# A state of another machine.
door.transition_to(Lamp.Lit, GO)  # wrong
door.can_transition_to(Lamp.Lit)  # wrong
door.force_state(Lamp.Lit, "why")  # wrong
door.transition_to("Ajar", GO)  # wrong
order.transition_to(Door.Shut, GO)  # wrong
order.transition_to(Lost, GO)  # wrong
StateMachine(DOOR, initial=Lamp.Dark)  # wrong
DOOR.allowed(Lamp.Dark)  # wrong
to_mermaid(DOOR, Lamp.Dark)  # wrong
banned: Rule[Door, None] = forbid(Lamp.Dark, Door.Shut, "why")  # wrong
define("door", Door, initial=Lamp.Dark, rules=RULES)  # wrong
define("door", Door, initial=Door.Shut, rules=[allow(Lamp.Dark, Lamp.Lit)])  # wrong
define("door", Door, initial=Door.Shut, rules=RULES, starts=[Lamp.Dark])  # wrong

# A trigger with missing fields, or none at all.
door.transition_to(Door.Ajar)  # wrong
door.transition_to(Door.Ajar, "push")  # wrong
door.transition_to(Door.Ajar, Command)  # wrong
Command()  # wrong
Cascade("house")  # wrong
Failure(node="hinge")  # wrong
Timeout("5 s")  # wrong
Recovery("hinge")  # wrong
Recovery()  # wrong

# An obligation, a guard or an invariant of the wrong type.
ProofObligation[Door, None]("sound", is_sound)  # wrong
Invariant[Door, None]("sound", "is sound", Severity.High, has_key)  # wrong
Invariant("sound", "is sound", "high", is_sound)  # wrong
define("door", Door, initial=Door.Shut, rules=RULES, obligations=[ProofObligation("is sane", is_sane)])  # wrong
define("door", Door, initial=Door.Shut, rules=RULES, obligations=[has_key])  # wrong
define("door", Door, initial=Door.Shut, rules=RULES, invariants=[ProofObligation("key", has_key)])  # wrong
guarded: Rule[Door, None] = allow(Door.Shut, Door.Ajar, guard=is_sane)  # wrong
answered: Rule[Door, None] = allow(Door.Shut, Door.Ajar, guard=lambda _: 5)  # wrong

# What runs after a step, of the wrong type.
told: Rule[Door, None] = allow(Door.Shut, Door.Ajar, after_commit=has_key)  # wrong
late: Rule[Door, None] = allow(Door.Shut, Door.Ajar, after_commit=ring)  # wrong
lamp: Rule[Lamp, None] = allow(Lamp.Dark, Lamp.Lit, after_commit=announce)  # wrong
allow(Door.Shut, Door.Ajar, effects=[5])  # wrong


async def run(machine: PersistentMachine[Door, None]) -> None:
    """Handlers of the wrong type."""
    await machine.run_effects({"ring": has_key})  # wrong
    await machine.run_effects([ring])  # wrong
    await machine.complete_effect(5)  # wrong


# Data of the wrong variant, or of another type.
Open(receipt="r")  # wrong
Paid()  # wrong
Paid(receipt=5)  # wrong
print(order.current_state.receipt)  # wrong
StateMachine(ORDER)  # wrong
StateMachine(ORDER, context=Payment(amount=1, receipt="r"))  # wrong
StateMachine(DOOR, context=Invoice())  # wrong
order.transition_to(Lost(), GO, update=lambda invoice: invoice.total)  # wrong
order.transition_to(Lost(), GO, metadata={"votes": 3})  # wrong
described("a state", failure="yes")  # wrong
forbid(Door.Shut, Door.Ajar)  # wrong

# A payload of the wrong event.
order.fire(PAY, None)  # wrong
order.fire(PAY, Invoice())  # wrong
order.fire(PAY)  # wrong
order.fire("pay", Payment(amount=1, receipt="r"))  # wrong
door.fire(BELL, Payment(amount=1, receipt="r"))  # wrong
allow(Door.Shut, Door.Ajar, on=BELL, guard=is_enough)  # wrong
allow(Open, Paid, guard=is_enough)  # wrong
allow(Open, Paid, on=BELL, enter=paid)  # wrong

# And what is right.
right: Definition[Door, None] = define("door", Door, initial=Door.Shut, rules=RULES)
anything: Any = door
anything.transition_to("Ajar", "push")
order.transition_to(Lost(), GO, update=lambda invoice: Invoice(total=invoice.total))
