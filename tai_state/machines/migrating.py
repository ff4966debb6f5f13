"""Moving stored machines from states that a newer definition does not know to those that take their place."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid5

import msgspec

from tai_state.errors import Conflict, Inconsistent, InvalidData, Rejected, StateNotFound
from tai_state.history.essentials import all_governors
from tai_state.history.survey import lost_states
from tai_state.history.unfinished import unfinished_restores
from tai_state.machines.asking import Saying
from tai_state.machines.contexts import C
from tai_state.machines.definition import Definition
from tai_state.machines.history import machine_in
from tai_state.machines.judging import StepKind
from tai_state.machines.migrations import Migration, Move, check_migration, move_of
from tai_state.machines.payloads import state_said
from tai_state.machines.states import S, key_of, name_of
from tai_state.machines.triggers import Command
from tai_state.streams import writing
from tai_state.streams.core import Core, HasCore, core_of
from tai_state.streams.layout import Stream
from tai_state.streams.reader import lost_state_error
from tai_state.streams.reading import get_state, list_states
from tai_state.values.checks import check_callable, check_flag
from tai_state.values.ids import escape_id
from tai_state.values.json import encode
from tai_state.values.metadata import ChangeMetadata, check_metadata
from tai_state.values.states import JsonSnapshot

LISTED_MAX: Final = 1_000
"""How many machines that were refused a report lists."""

_ATTEMPTS_MAX: Final = 16
"""How often a machine is looked at again because others have changed it meanwhile."""

_NAMES: Final = UUID("0f6f0a3c-7c39-5d7a-9a5e-2a8c1d6f4b90")
"""The namespace of the ids of events that record migrations."""

_BY_OPERATOR: Final = ChangeMetadata("migrate_machines", "")

_log = logging.getLogger("tai_state.machines")


class MigrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`migrate_machines` did.

    Attributes:
        moved: how many machines were moved; in a dry run, how many would be.
        left: how many machines of the definition's name needed no move.
        refused: the first 1,000 machines that could not be moved, damaged states, and restores that are unfinished:
            path and reason.
    """

    moved: int = 0
    left: int = 0
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the definition knows the state of each live machine of its name."""
        return not self.refused


MigrationProgress: TypeAlias = Callable[[MigrationReport], Awaitable[None]]
"""Is told what a migration has done so far, after each machine."""


async def migrate_machines(
    store: HasCore,
    migration: Migration[S, C] | Definition[S, C],
    states: Mapping[str, str],
    *,
    governor_id: str | None = None,
    metadata: ChangeMetadata = _BY_OPERATOR,
    dry_run: bool = False,
    progress: MigrationProgress | None = None,
) -> MigrationReport:
    """Move stored machines from states that a newer definition does not know to those that take their place.

    Each move is one commit, with an event of the action ``migrate``, and is judged by no rule and no obligation; the
    definition's invariants must hold after it. The machine keeps its epoch, and the time at which it entered its state,
    from which a time-out of the new state counts. Its data stays as it is if the definition's models know all of it.
    Otherwise it takes one of the functions of ``migration``.

    If it was interrupted, call it again. A machine that was moved, or has taken a step under the definition since, is
    not moved again. What goes wrong with one machine does not stop the others. Nothing is lost if services take steps
    meanwhile, but those that have only the older definition cannot open what was moved.

    Args:
        store: an open store.
        migration: the definition to migrate to; with functions, as a :class:`Migration`.
        states: by the name of a state, the name of the state that takes its place. No rule of the definition may leave
            the first one.
        governor_id: only this governor's machines; None: all.
        metadata: who migrates and why; by default, the move itself is the reason.
        dry_run: judge and count, and write nothing.
        progress: is told what was done so far.

    Raises:
        InvalidData: an argument is not valid, or the definition does not have a state that is named.
        GovernorNotFound: nothing was ever written under this governor.
        StoreUnavailable, StoreTimeout, CommitOutcomeUnknown: call it again.
    """
    core = core_of(store)
    wanted = migration if isinstance(migration, Migration) else Migration(migration)
    check_migration(wanted, states)
    check_metadata(metadata)
    check_flag(dry_run, "dry_run")
    if progress is not None:
        check_callable(progress, "progress")
    if governor_id is not None:
        escape_id(governor_id, "governor_id")
        await core.require_governor(governor_id)
    run = _Run(core, wanted, dict(states), metadata, is_dry=dry_run)
    strange = await unfinished_restores(core, governor_id)
    for governor in await all_governors(core, strange) if governor_id is None else [governor_id]:
        async for state in list_states(core, governor, report=strange.append):
            if await run.look_at(state) and progress is not None:
                await progress(run.report)
        async with aclosing(lost_states(core, governor)) as lost:
            strange += [lost_state_error(stream) async for stream in lost]
    for error in {each.path: each for each in strange}.values():
        run.refuse(error.path, error.what)
    return run.report


class _Run:
    """One pass over the machines of a store.

    Args:
        core: the core of the store.
        migration: what they are moved by.
        states: by the name of a state, that of the state that takes its place.
        metadata: who migrates and why.
        is_dry: whether nothing is to be written.

    Attributes:
        report: what was done so far.
    """

    def __init__(
        self,
        core: Core,
        migration: Migration[Any, Any],
        states: Mapping[str, str],
        metadata: ChangeMetadata,
        *,
        is_dry: bool,
    ) -> None:
        self.report = MigrationReport()
        self._core = core
        self._migration = migration
        self._states = states
        self._metadata = metadata
        self._is_dry = is_dry

    def refuse(self, path: str, why: str) -> None:
        """Note a machine that cannot be moved."""
        if len(self.report.refused) < LISTED_MAX:
            self.report = msgspec.structs.replace(self.report, refused=(*self.report.refused, (path, why)))

    async def look_at(self, state: JsonSnapshot) -> bool:
        """Move a machine if it has to be moved. Returns whether it is one of the definition's name."""
        record, stream = machine_in(state.data), self._core.layout.stream(state.governor_id, state.state_id)
        if record is None or record.name != self._migration.definition.name:
            return False
        try:
            outcome = await self._moved(stream, state)
        except StateNotFound:
            return False  # it was deleted meanwhile
        except (Inconsistent, Rejected) as error:
            outcome = str(error)
        if isinstance(outcome, str):
            self.refuse(stream.state, outcome)
        elif outcome:
            self.report = msgspec.structs.replace(self.report, moved=self.report.moved + 1)
        else:
            self.report = msgspec.structs.replace(self.report, left=self.report.left + 1)
        return True

    async def _moved(self, stream: Stream, state: JsonSnapshot) -> bool | str:
        """Whether a machine was moved, or why it could not be."""
        for _ in range(_ATTEMPTS_MAX):
            move = move_of(self._migration, self._states, state.data, stream.state)
            if not isinstance(move, Move):
                return move or False
            await self._check_schema(stream, state)
            if self._is_dry:
                return True
            try:
                await self._write(stream, state, move)
            except Conflict:
                state = await get_state(self._core, stream)
            else:
                return True
        return "others change it all the time: call it again"

    async def _check_schema(self, stream: Stream, state: JsonSnapshot) -> None:
        """Check that what is written bears the schema of what was read.

        Raises:
            InvalidData: the store reads data as it is stored, so it would not.
        """
        upcasting, head = self._core.settings.upcasting, self._core.appender.heads.get(stream.state)
        if head is None or head.version != state.version:
            found = await self._core.read_state(stream)
            schema = upcasting.schema if found is None else found[1].schema
        else:
            schema = head.schema
        if schema != upcasting.schema and upcasting.is_current(schema):
            advice = "call `migrate_machines` with a store that is opened with your application's schema"
            raise InvalidData(f"its data is of the schema {schema}: {advice}")

    async def _write(self, stream: Stream, state: JsonSnapshot, move: Move) -> None:
        """Write a move, at the version that it was judged on; asked again, it is the same event."""
        core, definition, to_state = self._core, self._migration.definition, name_of(key_of(move.state))
        names = [stream.governor_id, stream.state_id, state.version, definition.hash]
        saying = Saying(self._metadata, bool(self._metadata.reason), str(uuid5(_NAMES, encode(names))))
        trigger = Command(f"migrate {move.record.state} to {to_state}")
        intent = saying.intent(StepKind.MIGRATE, trigger, state_said(move.state))
        written = await writing.save(core, stream, move.data, intent, state.version, None)
        ids = {"governor_id": stream.governor_id, "state_id": stream.state_id, "version": written.version}
        _log.info("%s: migrate from %s to %s", stream.state, move.record.state, to_state, extra=ids)
