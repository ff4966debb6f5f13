"""Exported histories as regression tests of a definition."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from tai_state import ANY, ChangeMetadata, CorruptDocument, StateMachinePersister, open_store
from tai_state.errors import InvalidData
from tai_state.machines import Command, Definition, Rule, define, forbid, time_out
from tai_state.testing import assert_replays

from ..support.machine_kit import NODE, Node
from ..support.orders import ORDER, PAY, RULES, Cart, Order, Payment

WHO = ChangeMetadata("shop-1", "")


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """The export of two orders, one of which was forced out of its final state, a node and a plain state."""
    path = tmp_path / "histories" / "shop.jsonl"
    path.parent.mkdir()

    async def live() -> None:
        async with open_store("memory://", metadata=WHO) as store:
            for name in ("a", "b"):
                order = store.machine("shop", name, ORDER)
                await order.initialize(context=Cart())
                await order.fire(PAY, Payment(cents=100))
                await order.transition_to(Order.Shipped, Command("ship"))
            await order.transition_to(Order.Lost, Command("burn"))
            await order.force_state(Order.Paid, "found")
            node = store.machine("shop", "node", NODE)
            await node.initialize()
            await node.transition_to(Node.Computing, Command("compute"))
            await store.save_state("shop", "plain", {"n": 1})
            await StateMachinePersister(store).export_history("shop", path)

    anyio.run(live)
    return path


def changed(*more: Rule[Order, Any], without: str = "", unreached: Sequence[Order] = ()) -> Definition[Order, Cart]:
    """The definition of orders with more rules, or without one."""
    kept = [rule for rule in RULES if rule.name != without]
    rules = [*kept, *more]
    return define("order", Order, initial=Order.Placed, rules=rules, context=Cart, version=2, unreached=unreached)


def test_what_has_happened_is_allowed(history: Path) -> None:
    """The definition that was in force, and one with another time-out, allow every step; forced ones need no rule."""
    assert_replays(ORDER, str(history.parent / "*.jsonl"))
    assert_replays(NODE, str(history))
    assert_replays(changed(time_out(Order.Paid, Order.Lost, seconds=5)), str(history))


def test_a_step_that_is_not_allowed_any_more_is_named(history: Path) -> None:
    """A definition that forbids what has happened fails, with the file, the machine, the version and the reason."""
    gone = (Order.Shipped, Order.Delivered)
    stricter = changed(forbid(Order.Paid, Order.Shipped, "it is collected"), without="PaidToShipped", unreached=gone)
    with pytest.raises(AssertionError) as raised:
        assert_replays(stricter, str(history))
    first, *steps = str(raised.value).splitlines()
    assert "does not allow 2 of 8 steps" in first
    assert steps == [
        f"{history}: shop/{name}, version 3: from 'Paid' to 'Shipped': {reason}" for name, reason in REASONS
    ]


REASONS = [(name, "it is collected (rule 'NoPaidToShipped')") for name in ("a", "b")]


def test_a_write_past_a_machine_is_named(history: Path) -> None:
    """A plain write that changed an order is no step that a definition allows."""

    async def write() -> None:
        async with open_store("memory://", metadata=WHO) as store:
            await StateMachinePersister(store).import_history(history)
            await store.update_state("shop", "a", {"n": 1}, expected=ANY)
            await store.update_state("shop", "node", {"n": 1}, expected=ANY)
            await StateMachinePersister(store).export_history("shop", history.with_name("past.jsonl"))

    anyio.run(write)
    with pytest.raises(AssertionError, match=re.escape("shop/a, version 4: 'update' by 'shop-1'")) as raised:
        assert_replays(ORDER, str(history.parent / "**" / "*.jsonl"))
    assert "node" not in str(raised.value)


def test_nothing_to_replay_is_a_failure(history: Path) -> None:
    """A pattern without files, a file without such machines, a damaged file: none of them passes."""
    with pytest.raises(AssertionError, match="no file is found at nowhere/"):
        assert_replays(ORDER, "nowhere/*.jsonl")
    with pytest.raises(AssertionError, match="no file is found at no path"):
        assert_replays(ORDER)
    other = define("other", Node, initial=Node.Ready, rules=NODE.rules)
    with pytest.raises(AssertionError, match="no machine 'other' took a step in"):
        assert_replays(other, str(history))
    history.write_text(history.read_text()[:-40])
    with pytest.raises(CorruptDocument):
        assert_replays(ORDER, str(history))
    with pytest.raises(InvalidData):
        assert_replays(None, str(history))  # type: ignore[arg-type]
