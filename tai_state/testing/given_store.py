"""Given, when, then: tests of what a piece of code writes into a store.

::

    async with tai_state_store as store:
        order = store.machine("orders", "A-3", ORDER)
        happened = await given_store(store, order.initialize(context=Cart(cents=500))).when(pay(store, "A-3"))
        happened.then_wrote(("orders", "A-3", "transition"))
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Generic, TypeVar

from tai_state.store.store import StateStore
from tai_state.values.events import JsonEvent

T = TypeVar("T")


class GivenStore:
    """A store, and what is to happen in it before the code under test runs. Made by :func:`given_store`."""

    def __init__(self, store: StateStore, past: tuple[Awaitable[Any], ...]) -> None:
        self._store = store
        self._past = past

    async def when(self, act: Awaitable[T]) -> Happened[T]:
        """Run the code under test. What it raises goes to the caller.

        Args:
            act: a call of the code, not yet awaited.
        """
        before = await self._begun()
        result = await act
        return Happened(result, await _written_since(self._store, before))

    async def when_refused(self, act: Awaitable[Any], error: type[Exception], reason: str = "") -> Happened[None]:
        """Run code under test that must raise.

        Args:
            act: a call of the code, not yet awaited.
            error: what it must raise.
            reason: a part of the error's text.

        Raises:
            AssertionError: it raised nothing, or an error with another text.
            Otherwise what it raised, if that is another error.
        """
        before = await self._begun()
        try:
            result = await act
        except error as raised:
            if reason not in str(raised):
                raise AssertionError(f"{type(raised).__name__} says {str(raised)!r}, without {reason!r}") from raised
            return Happened(None, await _written_since(self._store, before))
        raise AssertionError(f"nothing was raised, but {error.__name__} was expected; it returned {result!r}")

    async def _begun(self) -> dict[tuple[str, str], int]:
        """Let happen what is to happen before; the versions of all states after that."""
        for each in self._past:
            await each
        return await _versions(self._store)


class Happened(Generic[T]):
    """What the code under test has done.

    Attributes:
        result: what it returned.
        events: the events written meanwhile, ordered by governor, state and version.
    """

    def __init__(self, result: T, events: tuple[JsonEvent, ...]) -> None:
        self.result: T = result
        self.events: tuple[JsonEvent, ...] = events

    def then_wrote(self, *expected: tuple[str, str, str]) -> None:
        """Assert which events were written, and no others.

        Args:
            expected: for each event, its governor, its state and its action. The events of one state stand in their
                order; the order of the states is free. Without arguments: nothing was written.

        Raises:
            AssertionError: others were written. The message lists them.
        """
        seen = [(each.governor_id, each.state_id, each.action) for each in self.events]
        wanted = sorted(expected, key=lambda each: each[:2])
        if seen != wanted:
            raise AssertionError(f"written were {seen}, not {wanted}")


def given_store(store: StateStore, *past: Awaitable[Any]) -> GivenStore:
    """Take something to have happened in a store.

    Args:
        store: an open store.
        past: calls, not yet awaited, that bring it about. They run one after the other before the code under test does.
    """
    return GivenStore(store, past)


async def _versions(store: StateStore) -> dict[tuple[str, str], int]:
    """The version of every state, deleted ones included."""
    found: dict[tuple[str, str], int] = {}
    async for governor_id in store.list_governors():
        async for state in store.list_states(governor_id, deleted=True):
            found[governor_id, state.state_id] = state.version
    return found


async def _written_since(store: StateStore, before: dict[tuple[str, str], int]) -> tuple[JsonEvent, ...]:
    """The events of versions that no state had before."""
    events: list[JsonEvent] = []
    for (governor_id, state_id), version in sorted((await _versions(store)).items()):
        after = before.get((governor_id, state_id), 0)
        if version > after:
            events += [event async for event in store.get_events(governor_id, state_id, after=after)]
    return tuple(events)
