"""Checking stored machines: every step by the definition that it was made under, every live machine by the newest."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import Final

from tai_state.errors import Inconsistent, NotRetained, SerializationError
from tai_state.history.essentials import all_governors
from tai_state.history.survey import states_without_events, streams_with_events
from tai_state.history.unfinished import unfinished_restore, unfinished_restores
from tai_state.machines.auditing import Audit, Outcome, audited
from tai_state.machines.catalogue import Catalogue, Definitions
from tai_state.machines.envelope import read_envelope
from tai_state.machines.history import machine_in
from tai_state.machines.reports import LISTED_MAX, CheckProgress, MachineFinding, MachinesReport
from tai_state.machines.succession import due_under, stranded_because
from tai_state.streams.core import Core, HasCore, core_of
from tai_state.streams.layout import Stream
from tai_state.streams.salvaging import sound_events
from tai_state.values.checks import check_callable
from tai_state.values.ids import escape_id, split_versioned
from tai_state.values.states import DeletedState

_COUNTS: Final = {
    "legal": "steps",
    "forced": "forced",
    "migrated": "migrated",
    "merged": "merged",
    "illegal": "illegal",
    "past": "illegal",
    "unknown": "illegal",
    "unchecked": "unchecked",
    "stranded": "stranded",
    "timer": "timers_moved",
    "corrupt": "corrupt",
}
"""The count of a report in which each kind of what was found is counted."""
_UNLISTED: Final = frozenset({Outcome.LEGAL, Outcome.FORCED, Outcome.MIGRATED})


async def check_machines(
    store: HasCore,
    definitions: Definitions,
    *,
    governor_id: str | None = None,
    progress: CheckProgress | None = None,
) -> MachinesReport:
    """Judge every step of every stored machine once more, and find machines that a new definition strands.

    It changes nothing. A step is judged by the definition that it was made under, which is found by its hash. The hash
    says of functions only that they are there. So give a definition a new version if one of them decides otherwise, and
    hand over both.

    Some things are not judged:

    - data that a caller gave as ``update`` of a step, which is taken as it is;
    - the first event of a stream that is left after a cleanup, and the event after one that is damaged;
    - states that never held a machine.

    Live machines are looked at by the newest definition of their name: those that it strands, because it does not know
    their state, cannot read them, or has no rule that leaves a state which their own definition leaves; and those whose
    time-out would be due at another time, counted from when they entered their state.

    Args:
        store: an open store.
        definitions: one definition or several, older versions too.
        governor_id: only this governor's machines; None: all.
        progress: is told what was found so far, after each state.

    Raises:
        InvalidData: ``definitions`` is neither, or ``progress`` is not a function.
        GovernorNotFound: nothing was ever written under this governor.
        StoreUnavailable, StoreTimeout: call it again.
    """
    core, catalogue = core_of(store), Catalogue(definitions)
    if progress is not None:
        check_callable(progress, "progress")
    if governor_id is not None:
        escape_id(governor_id, "governor_id")
        await core.require_governor(governor_id)
    return await _Check(core, catalogue, progress).run(governor_id)


class _Check:
    """One pass over the machines of a store.

    Args:
        core: the core of the store.
        catalogue: the definitions at hand.
        progress: is told what was found so far.
    """

    def __init__(self, core: Core, catalogue: Catalogue, progress: CheckProgress | None) -> None:
        self._core = core
        self._catalogue = catalogue
        self._progress = progress
        self._counts: Counter[str] = Counter()
        self._findings: list[MachineFinding] = []
        self._missing: set[str] = set()

    async def run(self, governor_id: str | None) -> MachinesReport:
        """Check one governor, or all."""
        strange = await unfinished_restores(self._core, governor_id)
        governors = await all_governors(self._core, strange) if governor_id is None else [governor_id]
        for error in {each.path: each for each in strange}.values():
            self._damaged(error)
        for governor in governors:
            try:
                await self._governor(governor)
            except Inconsistent as error:
                self._damaged(error)
        return self._report()

    async def _governor(self, governor_id: str) -> None:
        strange: list[Inconsistent] = []
        async with aclosing(streams_with_events(self._core, governor_id, strange=strange)) as streams:
            async for stream in streams:
                await self._stream(stream)
                if self._progress is not None:
                    await self._progress(self._report())
        async with aclosing(states_without_events(self._core, governor_id, strange)) as streams:
            async for stream in streams:
                self._find(stream.state, 0, "corrupt", "has no events: run `tai-state verify`")
        for error in strange:
            self._damaged(error)

    async def _stream(self, stream: Stream) -> None:
        """Check one stream. What is wrong with it is a finding, and others are checked all the same."""
        is_machine = False
        for check in (self._steps, self._live):
            try:
                is_machine |= await check(stream)
            except Inconsistent as error:
                self._damaged(error)
        self._counts["machines"] += is_machine

    async def _steps(self, stream: Stream) -> bool:
        """Check the events of a stream. Returns whether one of them is that of a machine."""
        is_machine, reached = False, 0
        async with aclosing(sound_events(self._core, stream, self._unless_cleaned)) as events:
            async for event in events:
                audit = audited(self._catalogue, event, stream.state, follows=event.version == reached + 1)
                reached = event.version
                is_machine |= (machine_in(event.to_state) or machine_in(event.from_state)) is not None
                if audit.outcome is not Outcome.NONE:
                    is_listed = audit.outcome not in _UNLISTED and self._is_new(audit)
                    self._find(stream.state, event.version, audit.outcome.value, audit.why, is_listed=is_listed)
        return is_machine

    def _is_new(self, audit: Audit) -> bool:
        """Whether a finding is to be listed: that a definition is not at hand is said once."""
        if audit.missing is None:
            return True
        is_new = audit.missing not in self._missing and len(self._missing) < LISTED_MAX
        if is_new:
            self._missing.add(audit.missing)
        return is_new

    async def _live(self, stream: Stream) -> bool:
        """Check a state by the newest definition of its machine. Returns whether it holds a machine that lives."""
        found = await self._core.read_state(stream)
        if found is None:
            lost = await self._core.reader.absence_error(stream)
            if isinstance(lost, Inconsistent) and await unfinished_restore(self._core, stream.governor_id) is None:
                self._damaged(lost)
            return False
        state = self._core.state(stream, found[1], found[0].updated_us)
        if isinstance(state, DeletedState):
            return False
        try:
            record = read_envelope(state.data, stream.state)[0]
        except SerializationError:
            return False
        newest = self._catalogue.newest.get(record.name)
        if newest is None:
            return True
        why = stranded_because(newest, self._catalogue.of(record), record, state.data, stream.state)
        if why is not None:
            self._find(stream.state, state.version, "stranded", f"{why}: move it with `tai-state machines migrate`")
            return True
        due = due_under(newest, record, state.data, stream.state)
        if due != record.due:
            what = f"its time-out is due {_at(record.due)}, and would be due {_at(due)}"
            self._find(stream.state, state.version, "timer", what)
        return True

    def _unless_cleaned(self, error: Inconsistent) -> None:
        """Note what is wrong with an event. One that was cleaned up meanwhile is not there by mistake."""
        if not isinstance(error, NotRetained):
            self._damaged(error)

    def _damaged(self, error: Inconsistent) -> None:
        """Note a document that is damaged or missing."""
        self._find(error.path, _version_in(error.path), "corrupt", error.what)

    def _find(self, path: str, version: int, kind: str, message: str, *, is_listed: bool = True) -> None:
        """Count what was found, and list it if it is to be listed and there is room."""
        self._counts[_COUNTS[kind]] += 1
        if is_listed and len(self._findings) < LISTED_MAX:
            self._findings.append(MachineFinding(path, version, kind, message))

    def _report(self) -> MachinesReport:
        """What was found so far."""
        counts = {name: self._counts[name] for name in MachinesReport.__struct_fields__ if name != "findings"}
        return MachinesReport(**counts, findings=tuple(self._findings))


def _version_in(path: str) -> int:
    """The version in the path of an event; 0 in any other path."""
    try:
        return split_versioned(path.rpartition("/")[2])[1] if "/events/" in path else 0
    except ValueError:
        return 0


def _at(due: str | None) -> str:
    return "never" if due is None else f"at {due}"
