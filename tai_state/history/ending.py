"""Ending a restore that was interrupted and whose file is lost: what it has written is taken for all there is."""

from __future__ import annotations

from tai_state.history.claiming import claim_to_end, finish
from tai_state.history.essentials import drop_stray_markers
from tai_state.history.unfinished import RestoreRecord, unfinished_restore
from tai_state.streams.core import Core

ENDED = RestoreRecord("", finished=True)
"""The note of a restore that was ended: so it is no longer that of any file."""


async def end_restore(core: Core, governor_id: str) -> None:
    """End a restore of this governor, if one is unfinished. If this is interrupted, call it again.

    Markers came before all events, so those are removed that stand for events which did not come any more: the same
    call may be made again. Whatever else there is stays, and is for a recovery to make whole.

    Raises:
        GovernorExists: somebody else has ended the restore, or has gone on from it, meanwhile.
    """
    if await unfinished_restore(core, governor_id) is None:
        return
    held = await claim_to_end(core, governor_id)
    await drop_stray_markers(core, governor_id, held.check)
    await finish(core, held, ENDED)
