"""A pump whose state survives the process, in one SQLite file in the working directory.

Run it, and it prints::

    started: version 2, running at 40 %
    after a restart: failed, with 3 changes on record
      1  06:00  ana   install  idle at 0 %
      2  06:10  ana   start    running at 40 %
      3  14:20  plc7  trip     failed at 40 %
    at 07:00 it was running at 40 %
    at version 1 it was idle at 0 %
    every digest fits: True
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import anyio

from tai_state import ChangeMetadata, StateMachinePersister, open_store

URL = "sqlite:///pump.db"


@dataclass(frozen=True)
class Pump:
    """The state of one pump."""

    status: str
    level_percent: int = 0


def at(hour: int, minute: int = 0) -> datetime:
    """A time on the day of this example."""
    return datetime(2026, 3, 1, hour, minute, tzinfo=UTC)


def in_words(pump: Pump | None) -> str:
    """A state in words."""
    return "absent" if pump is None else f"{pump.status} at {pump.level_percent} %"


async def work() -> None:
    """The process that runs the pump. Each change names the version on which it was made."""
    async with open_store(URL) as store:
        pump = store.state("plant", "P-1", Pump)
        ana = ChangeMetadata("ana", "early shift")
        idle = await pump.save(Pump("idle"), ana, action="install", timestamp=at(6))
        running = await pump.save(Pump("running", 40), ana, expected=idle, action="start", timestamp=at(6, 10))
        print(f"started: version {running.version}, {in_words(running.data)}")
        await pump.update(
            lambda now: replace(now, status="failed"),
            ChangeMetadata("plc7", "overcurrent", {"amperes": 93}),
            action="trip",
            timestamp=at(14, 20),
        )


async def look_back() -> None:
    """Another process, later: the state is there, and so are all the changes that led to it."""
    async with open_store(URL, create=False) as store:
        pump = store.state("plant", "P-1", Pump)
        now = await pump.get()
        print(f"after a restart: {now.data.status}, with {now.version} changes on record")
        async for event in pump.history():
            by, time = event.metadata.changed_by, f"{event.timestamp:%H:%M}"
            print(f"  {event.version}  {time}  {by:4}  {event.action:7}  {in_words(event.to_state)}")
        print(f"at 07:00 it was {in_words((await pump.at(at(7))).data)}")
        print(f"at version 1 it was {in_words((await pump.at(1)).data)}")
        report = await StateMachinePersister(store).validate_consistency()
        print(f"every digest fits: {report.consistent}")


if __name__ == "__main__":
    anyio.run(work)
    anyio.run(look_back)
