"""A store that is used before its block, after it, or opened twice: the same words on every engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tai_state import StateStore

from ..support.stores import METADATA, collected

if TYPE_CHECKING:
    from ..support.stores import Place, Places

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Whether a store is open does not depend on the event loop."""
    return "asyncio"


async def _watch(store: StateStore) -> None:
    async with store.watch("g", "s") as states:
        with anyio.fail_after(0.2):
            await anext(states)


async def _lock(store: StateStore) -> None:
    async with store.lock("r", wait_seconds=0):
        pass


async def _transact(store: StateStore) -> None:
    await store.transact(lambda transaction: transaction.get(store.state("g", "s")))


USES: dict[str, Callable[[StateStore], Awaitable[Any]]] = {
    "save_state": lambda store: store.save_state("g", "new", {"n": 1}, METADATA),
    "get_state": lambda store: store.get_state("g", "s"),
    "get_events": lambda store: collected(store.get_events("g", "s")),
    "list_states": lambda store: collected(store.list_states("g")),
    "handle": lambda store: store.state("g", "s").update(dict, METADATA),
    "create_snapshot": lambda store: store.create_snapshot("g", "s"),
    "recover": lambda store: store.recover(),
    "transact": _transact,
    "lock": _lock,
    "watch": _watch,
}


async def said(store: StateStore) -> dict[str, str]:
    """What each use of the store ends with."""
    words: dict[str, str] = {}
    for name, use in USES.items():
        try:
            await use(store)
        except Exception as error:  # noqa: BLE001 - which error it is, is what is asked
            words[name] = f"{type(error).__name__}: {error}"
        else:
            words[name] = "it worked"
    return words


def _help(word: str) -> bool:
    return word.startswith("RuntimeError: ") and "async with" in word


async def test_before_its_block_a_store_says_what_to_do(place: Place):
    """Whoever forgets to open it is told how, whatever is asked of the store."""
    words = await said(place.store())
    assert {name: word for name, word in words.items() if not _help(word)} == {}


async def test_after_its_block_a_store_is_closed(place: Place):
    """Nothing is read or written any more, and that is said."""
    async with place.store() as store:
        await store.save_state("g", "s", {"n": 1}, METADATA)
    words = await said(store)
    assert {name: word for name, word in words.items() if not _help(word)} == {}


async def test_a_store_that_was_closed_can_be_opened_again(place: Place):
    """What its first block wrote is there in the second one, where the engine keeps it."""
    store = place.store()
    async with store:
        await store.save_state("g", "s", {"n": 1}, METADATA)
    async with store:
        await store.save_state("g", "t", {"n": 2}, METADATA)
        assert [state.state_id for state in await collected(store.list_states("g"))] == ["s", "t"]


async def test_a_store_is_opened_once_at_a_time(memory_places: Places):
    """Opening one object inside its own block is refused; its block goes on."""
    async with memory_places.new().store() as store:
        await store.save_state("g", "s", {"n": 1}, METADATA)
        with pytest.raises(RuntimeError):
            await store.__aenter__()
        assert (await store.get_state("g", "s")).data == {"n": 1}
