"""Ending a restore that was interrupted and whose file is lost: what it has written is taken for all there is."""

from __future__ import annotations

from tai_state.engines.api import Put
from tai_state.engines.matters import Commit, Done, Look, Verdict
from tai_state.engines.rewriting import Rewrite
from tai_state.engines.settling import settle
from tai_state.history.essentials import drop_stray_markers
from tai_state.history.unfinished import RestoreRecord, is_finished, unfinished_restore
from tai_state.streams.core import Core
from tai_state.streams.damage import as_read

ENDED = RestoreRecord("", finished=True)
"""The note of a restore that was ended: so it is no longer that of any file, whose restore may still run."""


async def end_restore(core: Core, governor_id: str) -> None:
    """End a restore of this governor, if one is unfinished. If this is interrupted, call it again.

    Markers came before all events, so those are removed that stand for events which did not come any more: the same
    call may be made again. Whatever else there is stays, and is for a recovery to make whole.
    """
    if await unfinished_restore(core, governor_id) is None:
        return
    await drop_stray_markers(core, governor_id)
    note = core.layout.restore(governor_id)

    def decide(look: Look) -> Verdict[None]:
        there = look.documents[note]
        if there is None or is_finished(there):
            return Done(None)
        return Commit([Put(note, ENDED, as_read(there))], lambda _: None)

    await settle(core.engine, Rewrite([note], decide), core.bounds)
