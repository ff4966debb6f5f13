"""Finding documents whatever is damaged or missing above them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from tai_state.engines.api import Scan
from tai_state.errors import CorruptDocument
from tai_state.streams.core import Core
from tai_state.streams.damage import Report
from tai_state.streams.records import GOVERNOR
from tai_state.values.ids import stored_id


async def every_governor(core: Core, report: Report) -> AsyncGenerator[str, None]:
    """The ids of all governors: in order those that have a document, then those whose own document is missing.

    Args:
        core: the store's core.
        report: called with what is wrong with a governor's document. If that is its id, the governor is left out.
    """
    collection = core.layout.governors
    async for document in core.engine.scan(Scan(collection)):
        try:
            governor_id = stored_id(document.path)
        except CorruptDocument as error:
            report(error)
            continue
        try:
            document.decode(GOVERNOR)
        except CorruptDocument as error:
            report(error)
        yield governor_id
    for segment in sorted(await core.engine.missing(collection)):
        path = f"{collection}/{segment}"
        try:
            governor_id = stored_id(path)
        except CorruptDocument as error:
            report(error)
            continue
        report(CorruptDocument(path, "is missing though there are documents below it: run `tai-state recover`"))
        yield governor_id


async def lock_collections(core: Core) -> list[str]:
    """The collections of what locks have written; those of waiters, too, whether or not their lock is held."""
    layout, engine = core.layout, core.engine
    locks = {document.id async for document in engine.scan(Scan(layout.locks))}
    locks.update(await engine.missing(layout.locks))
    waiters = [f"{layout.locks}/{each}/waiters" for each in sorted(locks)]
    return [layout.locks, layout.lockbeats, layout.lockbreaks, *waiters]
