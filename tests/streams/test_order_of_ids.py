"""States are listed in the order of their ids as they are stored, the same on every engine."""

from __future__ import annotations

import re

import pytest

from ..support.stores import GOVERNOR, METADATA, Place, collected

pytestmark = pytest.mark.anyio

IDS = ("a~", "a0", "a/b", "aZ", "a%", "ä", "a b", "a", "Z", "\N{GRINNING FACE}", "\uffee")


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: documents are ordered by the engine."""
    return "asyncio"


def as_stored(state_id: str) -> str:
    """The id as a part of a path: what would divide it is written in hexadecimal digits."""
    return re.sub("[%/~]", lambda each: f"%{ord(each.group()):02X}", state_id)


async def test_states_come_in_the_order_of_stored_ids(place: Place) -> None:
    """The order is that of the stored ids by code point, and goes on from any of them."""
    async with place.store() as store:
        for state_id in IDS:
            await store.save_state(GOVERNOR, state_id, {}, METADATA)
        ordered = sorted(IDS, key=as_stored)
        assert [each.state_id for each in await collected(store.list_states(GOVERNOR))] == ordered
        for place_in_order, state_id in enumerate(ordered):
            rest = [each.state_id for each in await collected(store.list_states(GOVERNOR, after=state_id))]
            assert rest == ordered[place_in_order + 1 :]


async def test_governors_come_in_the_order_of_stored_ids(place: Place) -> None:
    """Governors are listed in the same order, and from any of them on."""
    async with place.store() as store:
        for governor_id in IDS:
            await store.save_state(governor_id, "s", {}, METADATA)
        ordered = sorted(IDS, key=as_stored)
        assert await collected(store.list_governors()) == ordered
        for place_in_order, governor_id in enumerate(ordered):
            assert await collected(store.list_governors(after=governor_id)) == ordered[place_in_order + 1 :]
