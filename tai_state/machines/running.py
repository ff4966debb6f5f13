"""Running the pending effects of all machines of a store: after a crash, or because their handlers had failed."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any

from tai_state.errors import GovernorNotFound, Inconsistent, TaiStateError
from tai_state.history.essentials import all_governors
from tai_state.machines.catalogue import Catalogue, Definitions
from tai_state.machines.completing import EffectHandler, EffectsReport, check_handlers
from tai_state.machines.envelope import MachineRecord
from tai_state.machines.history import machine_in
from tai_state.machines.persistent import PersistentMachine
from tai_state.streams import reading
from tai_state.streams.core import Core, HasCore, core_of
from tai_state.values.checks import check_seconds
from tai_state.values.metadata import ChangeMetadata, check_default
from tai_state.values.states import JsonSnapshot

_log = logging.getLogger("tai_state.machines")


async def run_effects(
    store: HasCore,
    definitions: Definitions,
    handlers: Mapping[str, EffectHandler[Any, Any]],
    metadata: ChangeMetadata | None = None,
    *,
    governor_id: str | None = None,
    timeout_seconds: float = 30.0,
) -> EffectsReport:
    """Run the pending effects of all machines, one after the other; see ``PersistentMachine.run_effects``.

    It reads every state of the governors. What fails is in the report, and stops nothing else.

    Args:
        store: an open store.
        definitions: the definition of the machines, or several; the effects of others are left.
        handlers: by the name of an effect, the function that runs it.
        metadata: who records that effects are done; by default, what the store was made with.
        governor_id: the governor whose machines these are; by default, all of them.
        timeout_seconds: how long an asynchronous handler may take.

    Raises:
        InvalidData: an argument is not valid; nothing was run.
        GovernorNotFound: nothing was ever written under this governor.
    """
    core, catalogue = core_of(store), Catalogue(definitions)
    check_handlers(handlers)
    check_default(metadata)
    core.who(metadata)
    check_seconds(timeout_seconds, "timeout_seconds")
    if governor_id is not None:
        await core.require_governor(governor_id)
    report, damaged = EffectsReport(), list[Inconsistent]()
    async with aclosing(_states(core, governor_id, damaged)) as states:
        async for state in states:
            found = machine_in(state.data)
            if found is not None and found.effects:
                report = report.with_report(
                    await _run(core, state, found, catalogue, handlers, metadata, timeout_seconds)
                )
    for each in damaged:
        report = report.with_failure(each.path, each)
    return report


async def _run(
    core: Core,
    state: JsonSnapshot,
    found: MachineRecord,
    catalogue: Catalogue,
    handlers: Mapping[str, EffectHandler[Any, Any]],
    metadata: ChangeMetadata | None,
    timeout_seconds: float,
) -> EffectsReport:
    """Run the pending effects of one machine."""
    if found.name not in catalogue.newest:
        return EffectsReport(left=len(found.effects))
    stream = core.layout.stream(state.governor_id, state.state_id)
    try:
        machine = PersistentMachine(core, stream, catalogue.moving(found, stream.state), metadata)
        return await machine.run_effects(handlers, timeout_seconds=timeout_seconds)
    except TaiStateError as error:
        ids = {"governor_id": state.governor_id, "state_id": state.state_id}
        _log.warning("the effects of a machine were not run: %s", error, extra=ids)
        return EffectsReport().with_failure(stream.state, error)


async def _states(
    core: Core, governor_id: str | None, damaged: list[Inconsistent]
) -> AsyncGenerator[JsonSnapshot, None]:
    """The live states of one governor or all of them, past what is damaged."""
    governors = [governor_id] if governor_id is not None else await all_governors(core, damaged)
    for governor in governors:
        with suppress(GovernorNotFound):  # all that it had is gone since
            async for state in reading.list_states(core, governor, report=damaged.append):
                yield state
