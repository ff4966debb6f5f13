"""What the restore of one file has begun of a stream, where the restore of another one goes on.

If one of the two files was exported after a cleanup, what is there and what is in the other file may not join.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tai_state.engines.api import ABSENT, ANYTHING, Check, Delete, Document, Put, Scan
from tai_state.engines.batching import Batches, weight_of, weight_of_all
from tai_state.engines.paging import take
from tai_state.engines.rewriting import write_unless_moved
from tai_state.errors import Inconsistent
from tai_state.history.claiming import Begun, Claim
from tai_state.history.restoring import Item
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.records import EVENT, EventRecord
from tai_state.values.clocks import ClockOrder, compare


async def joining(core: Core, items: Sequence[Item], left: dict[str, None], held: Claim) -> list[Item]:
    """Those documents of a batch that can be written without a gap; what is older, and would leave one, is removed.

    Args:
        core: the core of the store.
        items: the batch.
        left: the paths of the states whose streams are left out. It receives those of which something newer is there,
            or something of another history.
        held: the claim of the restore, which each removal requires.
    """
    if held.begun is Begun.UNDER_WAY:
        await _make_way(core, items, left, held.check)
    return [each for each in items if each.stream is None or each.stream.state not in left]


async def _make_way(core: Core, items: Sequence[Item], left: dict[str, None], holds: Check) -> None:
    ends = [(item, item.stream) for item in items if item.stream is not None and (item.beside or item.kind == "state")]
    states = (await core.engine.read([stream.state for _, stream in ends])).documents if ends else ()
    for (item, stream), state in zip(ends, states, strict=True):
        if state is None and stream.state not in left:
            is_first = item.kind == "event"
            if not await (_begins if is_first else _ends)(core, stream, item.put, holds):
                left[stream.state] = None


async def _begins(core: Core, stream: Stream, put: Put, holds: Check) -> bool:
    """Whether the file's first event of a stream can be its first one: older ones, which it knows of, are removed."""
    first = msgspec.convert(put.fields, EventRecord)
    start, end = stream.range(1, first.version - 1)
    last: Document | None = None
    async for each in core.engine.scan(Scan(stream.events, start=start, end=end)):
        last = each
    if last is None:
        return True
    try:
        before = last.decode(EVENT)
    except Inconsistent:
        before = None
    if before is not None and before.is_genuine(stream.governor_id):
        if (before.version, before.digest) == (first.version - 1, first.previous):
            return True
        if compare(before.causality, first.causality) is not ClockOrder.BEFORE:
            return False
    await _remove(core, stream, holds, 1, first.version - 1)
    return True


async def _ends(core: Core, stream: Stream, put: Put, holds: Check) -> bool:
    """Whether the file's last event of a stream can be its last one; else those of the file are removed again.

    Later events that do not join can be used only with the snapshot at the first of them, so without it they go.
    """
    version = msgspec.to_builtins(put.fields)["version"]
    start, end = stream.range(version + 1)
    later = await take(core.engine.scan(Scan(stream.events, start=start, end=end, limit=1)), 1)
    if not later or later[0].path == stream.event(version + 1):
        return True
    [base] = (await core.engine.read([f"{stream.snapshots}/{later[0].id}"])).documents
    if base is None:
        await _remove(core, stream, holds, version + 1)
        return True
    await _remove(core, stream, holds, 1, version)
    return False


async def _remove(core: Core, stream: Stream, holds: Check, first: int, last: int | None = None) -> None:
    """Remove the events of a stream without a state, from one version to another."""
    required = [holds, Check(stream.state, ABSENT)]
    start, end = stream.range(first, last)
    gone = [Delete(each.path, ANYTHING) async for each in core.engine.scan(Scan(stream.events, start=start, end=end))]
    for batch in Batches(core.engine.capabilities).split(gone, weight_of, weight_of_all(required)):
        await write_unless_moved(core.engine, [*required, *batch], core.bounds)
