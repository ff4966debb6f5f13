"""Restore: writes the documents of an export's file into a store, and goes on where it was interrupted."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path

import anyio.to_thread
import msgspec

from tai_state.engines.api import ABSENT, ANYTHING, Put, Write
from tai_state.engines.batching import Batches, Weight, weight_of, weight_of_all
from tai_state.engines.matters import Commit, Done, Failed, Look, Verdict
from tai_state.engines.rewriting import Rewrite
from tai_state.engines.settling import settle
from tai_state.errors import (
    GovernorExists,
    InvalidData,
    Rejected,
)
from tai_state.history.begun import joining
from tai_state.history.claiming import Begun, Claim, claim, finish, withdraw
from tai_state.history.dropping import drop_stray, stray_snapshots
from tai_state.history.essentials import drop_stray_markers
from tai_state.history.exportfile import (
    TransferStats,
    check_export,
    lines_of,
    opened_export,
)
from tai_state.history.restoring import Due, Item, due, due_at_last, item_of, path_of
from tai_state.history.samefile import SameFile
from tai_state.history.unfinished import RestoreRecord
from tai_state.streams.core import Core

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
                are restored; or another restore went on from this one, which writes no more.
            InvalidData, CorruptDocument, IncompatibleFormat: the file is damaged, or is not an export that this
                release can read; or this store was retired in it; or the note of an earlier restore is damaged.
                Nothing was written, unless somebody wrote into the file meanwhile.
        """
        with await anyio.to_thread.run_sync(opened_export, path) as file:
            return await self._restore(file, keep_changed=keep_changed)

    async def _restore(self, file: SameFile, *, keep_changed: bool) -> TransferStats:
        check = await anyio.to_thread.run_sync(check_export, file)
        header, stats = check.header, check.stats()
        if (store_id := self._core.store_id) in check.retired:
            what = "its next changes would be taken for its first ones: restore the file into a new store"
            raise InvalidData(f"store {store_id} was retired in {file.path}, and {what}")
        held = await claim(self._core, header.governor_id, header.export_id, keep_changed=keep_changed)
        batches = self._batches(header.governor_id, file, held)
        if held.begun is Begun.FINISHED:
            await self._compare(batches)
            return stats
        changed = await self._write(batches, held)
        if held.begun is Begun.UNDER_WAY:
            changed |= await self._put_markers_back(header.governor_id, file, held, changed)
        if changed or held.begun is Begun.UNDER_WAY:
            await drop_stray_markers(self._core, header.governor_id, held.check)
            async with aclosing(stray_snapshots(self._core, header.governor_id)) as strays:
                async for stray in strays:
                    await drop_stray(self._core, stray, held.check)
        if changed and not keep_changed:
            raise GovernorExists(next(iter(changed)), tuple(changed)[:LISTED_MAX])
        await finish(self._core, held, RestoreRecord(header.export_id, finished=True))
        for each in changed:
            _logger.warning("a restore left out what was changed meanwhile", extra={"path": each})
        return msgspec.structs.replace(stats, kept=tuple(changed)[:LISTED_MAX])

    def _batches(self, governor_id: str, file: SameFile, held: Claim) -> Iterator[list[Item]]:
        """The documents of a file, in batches that each fit into one commit beside what that requires."""

        def weigh(document: tuple[Item, int]) -> Weight:
            item, length = document
            operations, size = weight_of_all(item.beside)
            return Weight(operations + 1, size + len(item.put.path.encode()) + length)

        for batch in Batches(self._core.engine.capabilities).split(
            self._documents(governor_id, file), weigh, weight_of(held.check)
        ):
            yield [item for item, _ in batch]

    def _documents(self, governor_id: str, file: SameFile) -> Iterator[tuple[Item, int]]:
        """The documents of a file, each with the length of its line."""
        layout = self._core.layout
        before = ""
        for line, length in lines_of(file):
            if line.kind == "end":
                return
            # A governor document may already be there, with nothing under it, if a first write was refused.
            require = ANYTHING if line.kind == "governor" else ABSENT
            put = Put(path_of(layout, governor_id, line), line.fields, require)
            is_late = line.kind == "event" and before != "event" and line.fields["version"] > 1
            yield item_of(layout, governor_id, line, put, is_late=is_late), length
            before = line.kind

    async def _compare(self, batches: Iterator[list[Item]]) -> None:
        """Check that the documents of a file are there, as they are in it.

        Raises:
            GovernorExists: one is not.
        """
        while batch := await anyio.to_thread.run_sync(next, batches, None):
            there = (await self._core.engine.read([item.put.path for item in batch])).documents
            for item, document in zip(batch, there, strict=True):
                if document is None or document.fields() != item.put.fields:
                    raise GovernorExists(item.put.path)

    async def _write(self, batches: Iterator[list[Item]], held: Claim) -> dict[str, None]:
        """Write the documents of a file that are due; the paths of what others have changed, so that it was left out.

        Raises:
            GovernorExists: the claim is lost; or others had made something of the first batch, and nothing was written.
        """
        is_first = held.begun is Begun.NEW
        changed: dict[str, None] = {}
        while True:
            try:
                batch = await anyio.to_thread.run_sync(next, batches, None)
                if batch is None:
                    return changed
                rest = await joining(self._core, batch, changed, held)
                changed |= await self._put(rest, held, is_first=is_first)
            except (GovernorExists, Rejected):
                if is_first:
                    await withdraw(self._core, held)
                raise
            is_first = False

    async def _put_markers_back(
        self, governor_id: str, file: SameFile, held: Claim, changed: Mapping[str, None]
    ) -> dict[str, None]:
        """Write the markers that whole states lack, except of those whose history is not that of the file.

        Returns the paths of ids that stand for something else by now.
        """
        others: dict[str, None] = {}
        batches = self._batches(governor_id, file, held)
        while batch := await anyio.to_thread.run_sync(next, batches, None):
            markers = [item for item in batch if item.kind == "marker"]
            mine = [item for item in markers if item.stream is not None and item.stream.state not in changed]
            others |= await self._put(mine, held, due_at_last)
            if batch[-1].kind not in ("governor", "marker"):
                break
        return others

    async def _put(
        self, batch: list[Item], held: Claim, wanted: Due = due, *, is_first: bool = False
    ) -> dict[str, None]:
        """Write the documents of a batch that are due.

        Returns the paths of what others have changed, so that it was left out.

        Raises:
            GovernorExists: the claim is lost; or others have changed something of the first batch. Nothing was written.
        """

        def decide(look: Look) -> Verdict[dict[str, None]]:
            if not held.is_held(look):
                return held.lost
            writes: list[Write] = []
            changed: dict[str, None] = {}
            for item in batch:
                if item.stream is not None and item.stream.state in changed:
                    continue
                found = wanted(item, look.documents)
                if isinstance(found, str):
                    changed[found] = None
                elif found is not None:
                    writes += [found, *item.beside]
            if changed and is_first:
                return Failed(GovernorExists(next(iter(changed))))
            return Commit([held.check, *writes], lambda _: changed) if writes else Done(changed)

        if not batch:
            return {}
        reads = list(dict.fromkeys([held.note, *[path for item in batch for path in item.reads]]))
        nothing: dict[str, None] = {}
        # What nobody has begun can be written without a look.
        writes: list[Write] = [held.check, *[put for item in batch for put in item.writes]]
        blind = Commit(writes, lambda _: nothing) if held.begun is Begun.NEW else None
        return await settle(self._core.engine, Rewrite(reads, decide), self._core.bounds, blind)
