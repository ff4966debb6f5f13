"""Histories of machines, exported from a store, as regression tests of a definition.

::

    def test_what_has_happened_can_still_happen():
        assert_replays(ORDER, "histories/*.jsonl")
"""

from __future__ import annotations

from functools import partial
from glob import glob
from typing import Any, Final

import anyio

from tai_state.history.persister import StateMachinePersister
from tai_state.machines.auditing import Outcome, audited
from tai_state.machines.catalogue import Catalogue
from tai_state.machines.checks import check_definition
from tai_state.machines.definition import Definition
from tai_state.machines.envelope import MachineRecord
from tai_state.machines.history import machine_in
from tai_state.store.opening import open_store
from tai_state.values.events import JsonEvent

_FINE: Final = frozenset({Outcome.NONE, Outcome.LEGAL, Outcome.FORCED, Outcome.MIGRATED, Outcome.MERGED})
_LISTED_MAX: Final = 20


def assert_replays(definition: Definition[Any, Any], *files: str) -> None:
    """Assert that a definition still allows every step of exported histories, whatever definition they were made under.

    It passes over machines of other names, states without a machine, and steps that were forced, migrated or merged. It
    runs an event loop, so code that runs in one cannot call it.

    Args:
        definition: the definition to judge the steps by.
        files: the paths of exports, as ``tai-state export`` writes them; ``*`` and ``**`` stand for any names.

    Raises:
        AssertionError: a step is not allowed, or there is no such file or no step in them. The message lists the steps.
        Otherwise as ``StateMachinePersister.import_history``.
    """
    check_definition(definition)
    paths = sorted(path for file in files for path in glob(file, recursive=True))  # noqa: PTH207 - not only relative ones
    if not paths:
        raise AssertionError(f"no file is found at {', '.join(files) or 'no path'}")
    steps, wrong = 0, list[str]()
    for path in paths:
        more, found = anyio.run(partial(_replayed, _OnlyOne(definition), path))
        steps += more
        wrong += found
    if wrong:
        rest = f"\nand {len(wrong) - _LISTED_MAX} more" if len(wrong) > _LISTED_MAX else ""
        listed = "\n".join(wrong[:_LISTED_MAX])
        raise AssertionError(f"{definition!r} does not allow {len(wrong)} of {steps} steps:\n{listed}{rest}")
    if not steps:
        raise AssertionError(f"no machine {definition.name!r} took a step in {', '.join(paths)}")


class _OnlyOne(Catalogue):
    """A single definition, which judges all machines of its name."""

    def __init__(self, definition: Definition[Any, Any]) -> None:
        super().__init__(definition)
        self._definition = definition

    def of(self, record: MachineRecord) -> Definition[Any, Any] | None:
        return self._definition if record.name == self._definition.name else None


async def _replayed(catalogue: Catalogue, path: str) -> tuple[int, list[str]]:
    """How many steps a file has, and which of them are not allowed."""
    steps, wrong, reached = 0, list[str](), ("", 0)
    async with open_store("memory://") as store:
        stats = await StateMachinePersister(store).import_history(path)
        async for event in store.get_all_events(stats.governor):
            place = f"{event.governor_id}/{event.state_id}"
            follows = event.version == 1 or reached == (place, event.version - 1)
            reached = place, event.version
            if not {each.name for each in _machines(event)} & catalogue.newest.keys():
                continue
            audit = audited(catalogue, event, place, follows=follows)
            steps += audit.outcome is not Outcome.NONE
            if audit.outcome not in _FINE:
                wrong.append(f"{path}: {place}, version {event.version}: {audit.why}")
    return steps, wrong


def _machines(event: JsonEvent) -> list[MachineRecord]:
    """The machine before an event and the one after it, if there are any."""
    return [machine for state in (event.from_state, event.to_state) if (machine := machine_in(state)) is not None]
