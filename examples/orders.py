"""Orders as pydantic models: two workers change the same order, and a request arrives twice.

Run it, and it prints::

    placed: version 1, total 38.50
    the second worker is told: expected 1, found 2, unseen: ['pay']
    it looks again: version 3, paid, 3 items
    the request arrives again: version 1, nothing written
    the same id for another order: refused
    8 workers add an item each: 11 items, version 11
"""

from decimal import Decimal

import anyio
from pydantic import BaseModel

from tai_state import ChangeMetadata, IdempotencyConflict, StateHandle, VersionConflict, open_store

WEB = ChangeMetadata("web", "customer's click")


class Order(BaseModel):
    """An order, with exact amounts."""

    status: str = "placed"
    items: int
    total: Decimal


def with_item(order: Order) -> Order:
    """The order with one more item, for 10.00."""
    return order.model_copy(update={"items": order.items + 1, "total": order.total + Decimal("10.00")})


async def two_workers(order: StateHandle[Order]) -> None:
    """Both workers read version 1. The slower one learns what it missed, and decides again."""
    seen = await order.get()
    await order.save(seen.data.model_copy(update={"status": "paid"}), WEB, expected=seen, action="pay")
    try:
        await order.save(with_item(seen.data), WEB, expected=seen, action="add item")
    except VersionConflict as conflict:
        unseen = [event.action for event in conflict.events]
        print(f"the second worker is told: expected {conflict.expected}, found {conflict.actual}, unseen: {unseen}")
    after = await order.update(with_item, WEB, action="add item")
    print(f"it looks again: version {after.version}, {after.data.status}, {after.data.items} items")


async def main() -> None:
    """The life of one order."""
    async with open_store("memory://") as store:
        order = store.state("shop", "order-1", Order)
        first = Order(items=2, total=Decimal("38.50"))
        placed = await order.save(first, WEB, event_id="request-4711")
        print(f"placed: version {placed.version}, total {placed.data.total}")
        await two_workers(order)

        again = await order.save(first, WEB, event_id="request-4711")
        print(f"the request arrives again: version {again.version}, nothing written")
        try:
            await order.save(Order(items=9, total=Decimal(9)), WEB, event_id="request-4711")
        except IdempotencyConflict:
            print("the same id for another order: refused")

        async with anyio.create_task_group() as workers:
            for _ in range(8):
                workers.start_soon(order.update, with_item, WEB)
        now = await order.get()
        print(f"8 workers add an item each: {now.data.items} items, version {now.version}")


if __name__ == "__main__":
    anyio.run(main)
