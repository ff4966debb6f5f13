"""A store with machines, some of them odd, and a client of its endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tai_state import StateStore
from tai_state.machines import Event, ready
from tai_state.web import monitor_app

from ..support.orders import ORDER, PAY, Cart, Payment
from ..support.stores import METADATA, Place, Places

DEFINITIONS = [ORDER, ready.COORDINATOR, ready.SYSTEM, ready.WORKER, ready.INFERENCE_REQUEST]

ODD_IDS = (
    *(".", "..", "a/b", "a%2Fb", "é", "e\u0301", "日本", "x\u202ey\n", "history", "?a=1&b"),
    "<script>alert(1)</script>",
)
"""Ids that a careless address, page or header would break."""

UNKNOWN = {"name": "order", "version": 1, "definition": "x", "state": "<b>Gone</b>", "epoch": 0}


@pytest.fixture
def shop_place(memory_places: Places) -> Place:
    """Where the shop is: its clock moves when it is told to."""
    return memory_places.new()


@pytest.fixture
async def shop(shop_place: Place) -> AsyncIterator[StateStore]:
    """An open store: a coordinator that has gone round once, and an order that is paid."""
    async with shop_place.store() as store:
        states = ready.CoordinatorState
        node = store.machine("cluster", "node-1", ready.COORDINATOR, metadata=METADATA)
        await node.initialize(initial=states.Ready)
        for state in (states.Computing, states.Aggregating, states.Committing, states.Ready):
            await node.transition_to(state, Event(f"to {state}"))
        order = store.machine("shop", "A-3", ORDER, metadata=METADATA)
        await order.initialize(context=Cart())
        await order.fire(PAY, Payment(cents=100))
        yield store


async def odd(store: StateStore) -> None:
    """Put what is hostile, unknown or no machine beside the sound machines of the shop."""
    for state_id in ODD_IDS:
        await store.machine("shop", state_id, ORDER, metadata=METADATA).initialize(context=Cart())
    entered = {"entered_at": "2026-01-01T00:00:00.000000Z"}
    await store.save_state("shop", "plain", {"machine": "no"}, METADATA)
    await store.save_state("shop", "unknown", {"machine": {**UNKNOWN, **entered}}, METADATA)
    await store.save_state("shop", "alien", {"machine": {**UNKNOWN, **entered, "name": "ufo"}}, METADATA)
    timeless = {**UNKNOWN, "state": "Paid", "entered_at": "yesterday"}
    await store.save_state("shop", "timeless", {"machine": timeless, "context": {}}, METADATA)


@pytest.fixture
async def client(shop: StateStore) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the endpoint of the shop."""
    async with client_of(monitor_app(shop, DEFINITIONS)) as client:
        yield client


def client_of(app: Any) -> httpx2.AsyncClient:
    """A client of an application; what the application raises is raised here."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://monitor")
