"""A pump in the field goes offline, both it and the centre change its state, and a sync brings the two together.

The device has its own store in a file, which works without a network. In the sync, counters add up, the later change of
the setting wins, and the change it displaced is recorded. Prints::

    first sync: 1 event sent
    second sync: 1 state joined
    device: running on setting high, 130 litres
    centre: running on setting high, 130 litres
    dropped: setting=low
"""

import anyio

from tai_state import ChangeMetadata, FieldMerge, StateStore, open_store, recorded_conflicts, sync

DEVICE = ChangeMetadata("pump 7", "measured")
OPERATOR = ChangeMetadata("operator", "by phone")


async def show(name: str, store: StateStore) -> None:
    """Print the pump's state in one of the stores."""
    data = (await store.get_state("field", "pump-7")).data
    print(f"{name}: {data['state']} on setting {data['setting']}, {data['litres']} litres")


async def main() -> None:
    """Change both stores independently, then sync them."""
    async with open_store("sqlite:///device.db") as device, open_store("sqlite:///centre.db") as centre:
        begun = {"state": "running", "setting": "middle", "litres": 100}
        first = await device.save_state("field", "pump-7", begun, DEVICE)
        report = await sync(device, centre)
        print(f"first sync: {report.sent} event sent")

        # Offline, the device pumps and is set to low. The centre books a delivery and, later, sets it to high.
        offline = first.data | {"litres": 120, "setting": "low"}
        await device.update_state("field", "pump-7", offline, DEVICE, expected=first)
        await anyio.sleep(0.01)
        ordered = first.data | {"litres": 110, "setting": "high"}
        await centre.update_state("field", "pump-7", ordered, OPERATOR, expected=1)

        report = await sync(device, centre, resolver=FieldMerge({"litres": "counter", "setting": "last"}))
        print(f"second sync: {report.joined} state joined")
        await show("device", device)
        await show("centre", centre)
        async for conflict in recorded_conflicts(centre, "field"):
            for each in conflict.discarded:
                print(f"dropped: {each['path']}={each['value']}")


anyio.run(main)
