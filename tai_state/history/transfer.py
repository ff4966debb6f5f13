"""Restore: writes the documents of an export's file into a store, and goes on where it was interrupted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import aclosing
from enum import Enum
from pathlib import Path

import anyio.to_thread
import msgspec

from tai_state.engines.api import ABSENT, ANYTHING, At, Delete, Document, Put, Scan, Write
from tai_state.engines.batching import Batches, Weight
from tai_state.engines.matters import Commit, Done, Failed, Look, Verdict
from tai_state.engines.rewriting import Rewrite
from tai_state.engines.settling import settle
from tai_state.errors import (
    CorruptDocument,
    GovernorExists,
    InvalidData,
    Rejected,
)
from tai_state.history.begun import joining
from tai_state.history.dropping import drop_stray, stray_snapshots
from tai_state.history.essentials import drop_stray_markers
from tai_state.history.exportfile import (
    Header,
    TransferStats,
    check_export,
    lines_of,
)
from tai_state.history.restoring import Item, due, item_of, path_of
from tai_state.history.unfinished import RESTORE, RestoreRecord, is_finished
from tai_state.streams.core import Core


class Begun(Enum):
    """How far an earlier restore of a file has come."""

    NEW = "new"
    UNDER_WAY = "under way"
    FINISHED = "finished"


_logger = logging.getLogger("tai_state.history")

LISTED_MAX = 1_000
"""How many changed documents are named."""


class Restore:
    """Writes an export into a store that does not have its governor.

    Args:
        core: the core of the store.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run(self, path: Path, *, keep_changed: bool = False) -> TransferStats:
        """Restore a file. If interrupted, run it again with the same file to go on from where it stopped.

        A state that was whole already, and went on since, stays as it is. So does what somebody made meanwhile in the
        place of something in the file: all else is restored, and then it is named.

        Args:
            path: the file.
            keep_changed: leave out what has been changed, and finish the restore. If a restore of another file of the
                same governor is unfinished, go on from what it has written.

        Raises:
            GovernorExists: the governor already exists, or a restore of another file is unfinished, and nothing was
                written; or states were made in it after the restore had begun: ``changed`` names them, and all others
                are restored.
            InvalidData, CorruptDocument, IncompatibleFormat: the file is damaged, or is not an export that this
                release can read; or this store was retired in it; nothing was written.
        """
        check = await anyio.to_thread.run_sync(check_export, path)
        header, stats = check.header, check.stats()
        if (store_id := self._core.store_id) in check.retired:
            what = "its next changes would be taken for its first ones: restore the file into a new store"
            raise InvalidData(f"store {store_id} was retired in {path}, and {what}")
        begun = await self._begin(header, keep_changed=keep_changed)
        is_untouched = begun is Begun.NEW
        changed: dict[str, None] = {}
        batches = self._batches(header.governor_id, path)
        while batch := await anyio.to_thread.run_sync(next, batches, None):
            try:
                if begun is Begun.FINISHED:
                    await self._compare(batch)
                else:
                    rest = await joining(self._core, batch, changed, is_under_way=begun is Begun.UNDER_WAY)
                    changed |= await self._put(rest, begun, is_first=is_untouched)
            except (GovernorExists, Rejected):
                if is_untouched:
                    await self._forget(header)
                raise
            is_untouched = False
        if changed or begun is Begun.UNDER_WAY:
            await drop_stray_markers(self._core, header.governor_id)
            async with aclosing(stray_snapshots(self._core, header.governor_id)) as strays:
                async for stray in strays:
                    await drop_stray(self._core, stray)
        if changed and not keep_changed:
            raise GovernorExists(next(iter(changed)), tuple(changed)[:LISTED_MAX])
        await self._end(header)
        for each in changed:
            _logger.warning("a restore left out what was changed meanwhile", extra={"path": each})
        return msgspec.structs.replace(stats, kept=tuple(changed)[:LISTED_MAX])

    def _batches(self, governor_id: str, path: Path) -> Iterator[list[Item]]:
        """The documents of a file, in batches that each fit into one commit."""

        def weigh(document: tuple[Item, int]) -> Weight:
            item, length = document
            return Weight(len(item.writes), sum(len(each.path.encode()) for each in item.writes) + length)

        for batch in Batches(self._core.engine.capabilities).split(self._documents(governor_id, path), weigh):
            yield [item for item, _ in batch]

    def _documents(self, governor_id: str, path: Path) -> Iterator[tuple[Item, int]]:
        """The documents of a file, each with the length of its line."""
        layout = self._core.layout
        before = ""
        for line, length in lines_of(path):
            if line.kind == "end":
                return
            # A governor document may already be there, with nothing under it, if a first write was refused.
            require = ANYTHING if line.kind == "governor" else ABSENT
            put = Put(path_of(layout, governor_id, line), line.fields, require)
            is_late = line.kind == "event" and before != "event" and line.fields["version"] > 1
            yield item_of(layout, governor_id, line, put, is_late=is_late), length
            before = line.kind

    async def _begin(self, header: Header, *, keep_changed: bool) -> Begun:
        """Store a note that this restore is under way, unless the governor already exists."""
        engine, note = self._core.engine, self._core.layout.restore(header.governor_id)
        [document] = (await engine.read([note])).documents
        begun = None if document is None else _begun(document, header)
        if begun is not None:
            return begun
        if document is None or is_finished(document):
            await self._check_empty(header.governor_id)
        seen = None if document is None else document.revision
        ours = RestoreRecord(header.export_id)

        def decide(look: Look) -> Verdict[Begun]:
            there = look.documents[note]
            if there is None:
                return Commit([Put(note, ours, ABSENT)], lambda _: Begun.NEW)
            begun = _begun(there, header)
            if begun is not None:
                return Done(begun)
            if is_finished(there) and there.revision != seen:
                return Failed(GovernorExists(note))
            if not is_finished(there) and not keep_changed:
                return Failed(GovernorExists(note, is_unfinished=True))
            begun = Begun.NEW if is_finished(there) else Begun.UNDER_WAY
            return Commit([Put(note, ours, At(there.revision))], lambda _: begun)

        return await settle(engine, Rewrite([note], decide), self._core.bounds)

    async def _check_empty(self, governor_id: str) -> None:
        """Check that a governor has neither states nor events.

        Raises:
            GovernorExists: it has.
        """
        layout = self._core.layout
        for collection in (layout.states(governor_id), layout.events(governor_id)):
            async for found in self._core.engine.scan(Scan(collection, limit=1)):
                raise GovernorExists(found.path)

    async def _end(self, header: Header) -> None:
        """Note that the restore is finished. The note stays, so a caller that did not get this answer may ask again.

        Raises:
            GovernorExists: a restore of another file has gone on from this one meanwhile.
        """
        finished = RestoreRecord(header.export_id, finished=True)
        note = self._core.layout.restore(header.governor_id)

        def decide(look: Look) -> Verdict[None]:
            there = look.documents[note]
            begun = None if there is None else _begun(there, header)
            if there is not None and begun is None:
                return Failed(GovernorExists(note, is_unfinished=not is_finished(there)))
            if begun is Begun.FINISHED:
                return Done(None)
            return Commit([Put(note, finished, ABSENT if there is None else At(there.revision))], lambda _: None)

        await settle(self._core.engine, Rewrite([note], decide), self._core.bounds)

    async def _forget(self, header: Header) -> None:
        """Remove the note, unless a restore of another file has made it its own meanwhile."""
        note = self._core.layout.restore(header.governor_id)

        def decide(look: Look) -> Verdict[None]:
            there = look.documents[note]
            if there is None or _begun(there, header) is not Begun.UNDER_WAY:
                return Done(None)
            return Commit([Delete(note, At(there.revision))], lambda _: None)

        await settle(self._core.engine, Rewrite([note], decide), self._core.bounds)

    async def _compare(self, batch: list[Item]) -> None:
        """Check that the documents of a batch are there, as they are in the file.

        Raises:
            GovernorExists: one is not.
        """
        there = (await self._core.engine.read([item.put.path for item in batch])).documents
        for item, document in zip(batch, there, strict=True):
            if document is None or document.fields() != item.put.fields:
                raise GovernorExists(item.put.path)

    async def _put(self, batch: list[Item], begun: Begun, *, is_first: bool) -> dict[str, None]:
        """Write the documents of a batch that are due.

        Returns the paths of what others have changed, so that it was left out.

        Raises:
            GovernorExists: others have changed something of the first batch; nothing was written.
        """

        def decide(look: Look) -> Verdict[dict[str, None]]:
            writes: list[Write] = []
            changed: dict[str, None] = {}
            for item in batch:
                if item.stream is not None and item.stream.state in changed:
                    continue
                found = due(item, look.documents)
                if isinstance(found, str):
                    changed[found] = None
                elif found is not None:
                    writes += [found, *item.beside]
            if changed and is_first:
                return Failed(GovernorExists(next(iter(changed))))
            return Commit(writes, lambda _: changed) if writes else Done(changed)

        if not batch:
            return {}
        reads = list(dict.fromkeys([path for item in batch for path in item.reads]))
        nothing: dict[str, None] = {}
        # What nobody has begun can be written without a look.
        puts = [put for item in batch for put in item.writes]
        blind = Commit(puts, lambda _: nothing) if begun is Begun.NEW else None
        return await settle(self._core.engine, Rewrite(reads, decide), self._core.bounds, blind)


def _begun(note: Document, header: Header) -> Begun | None:
    """How far the restore of this file is, by the note of a restore; None if that is the note of another one."""
    try:
        record = note.decode(RESTORE)
    except CorruptDocument:
        return Begun.UNDER_WAY  # whatever the note said: what is whole stays, and the rest is written
    if record.export_id != header.export_id:
        return None
    return Begun.FINISHED if record.finished else Begun.UNDER_WAY
