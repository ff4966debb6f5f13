"""Taking time-outs: whatever is due is found by one scan of the index, and each step is taken once."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import anyio
import msgspec

from tai_state.engines.api import Document, Scan
from tai_state.engines.paging import take
from tai_state.engines.rewriting import write_unless_moved
from tai_state.errors import (
    ConcurrentModification,
    Inconsistent,
    InvalidData,
    StateNotFound,
    TaiStateError,
    TransitionRefused,
    Unavailable,
    UnknownMachineState,
)
from tai_state.machines.asking import Seen, asked_time_out
from tai_state.machines.catalogue import Catalogue, Definitions
from tai_state.machines.envelope import read_envelope
from tai_state.machines.persistent import PersistentMachine
from tai_state.machines.timers import TIMERS_AT_ONCE, read_at
from tai_state.streams.changes import Known
from tai_state.streams.core import Core, HasCore, core_of
from tai_state.streams.timers import Timer, removal, timer_in
from tai_state.streams.writing import present_data
from tai_state.values.checks import CONCURRENCY_MAX, check_seconds, check_whole
from tai_state.values.metadata import ChangeMetadata, check_metadata
from tai_state.values.times import format_us

_log = logging.getLogger("tai_state.machines")

LISTED_MAX: Final = 1_000
"""How many machines of each kind a report names at most."""

_PAUSES_MAX: Final = 10_000
_PAUSE_US_MIN: Final = 1_000_000
_PAUSE_US_MAX: Final = 60_000_000
_BY_TIMERS: Final = ChangeMetadata("timers", "")


class TimersReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the time-outs that were due.

    The lists name the first 1,000 machines each: path and reason. Those machines stay as they are.

    Attributes:
        fired: how many steps were taken.
        overtaken: how many machines had moved on before their turn came.
        removed: how many entries of the index stood for no time-out any more, and were removed.
        refused: the machines whose definition refuses the step.
        undefined: the machines whose definition was not given, or does not know their state.
        failed: the machines of which something is damaged, or where a function of the definition raised.
    """

    fired: int = 0
    overtaken: int = 0
    removed: int = 0
    refused: tuple[tuple[str, str], ...] = ()
    undefined: tuple[tuple[str, str], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()


async def run_timers(
    store: HasCore,
    definitions: Definitions,
    *,
    metadata: ChangeMetadata = _BY_TIMERS,
    concurrency: int = 16,
    every_seconds: float | None = None,
) -> TimersReport:
    """Take the step of every time-out that is due in a store. Any number of processes may do so at once.

    Each step is taken once: it is one commit, and requires the version of the machine that was read. It is never taken
    before the engine's time has reached ``due``. It may be late: a look goes as far as the store's clock says.

    A look is one scan of what is due, and a read for every hundred machines in it. If nothing is due, the scan finds
    nothing. A machine that cannot take its step is left as it is, and hinders no other one.

    Args:
        store: an open store.
        definitions: the definition of the machines, or several. Of several with one name, the one counts under which a
            machine was written; if it is not given, or does not know the machine's state, the newest.
        metadata: who takes the steps, and why. Without a reason, the time-out is the reason.
        concurrency: how many steps are taken at once.
        every_seconds: look again after so many seconds, until cancelled. What could not be done is then tried again
            after pauses that grow from a second to a minute. While the store cannot be reached, it goes on looking.

    Returns:
        What became of them, after one look.

    Raises:
        InvalidData: an argument is not valid.
        StoreUnavailable, StoreTimeout: only without ``every_seconds``; the next call goes on.
    """
    core, catalogue = core_of(store), Catalogue(definitions)
    check_metadata(metadata)
    runner = _Runner(core, catalogue, metadata, check_whole(concurrency, "concurrency", 1, CONCURRENCY_MAX))
    if every_seconds is None:
        return await runner.look()
    seconds = check_seconds(every_seconds, "every_seconds")
    if seconds == 0:
        raise InvalidData("every_seconds must be more than 0")
    while True:
        try:
            await runner.look()
        except TaiStateError as error:
            if not error.is_transient:
                raise
            _log.warning("the time-outs could not all be looked at: %s", error)
        await anyio.sleep(seconds)


class _DueMachine(PersistentMachine[Any, Any]):
    """A stored machine whose time-out is due."""

    async def take_time_out(self, read: Known, state: str) -> None:
        """Take the step of the time-out.

        Args:
            read: the machine as it was read. The step is taken only at that version.
            state: the name of its state.

        Raises:
            TransitionRefused: the definition refuses the step, or the machine has moved on.
            Otherwise as :meth:`transition_to`.
        """
        core = self.core
        saying = self._saying(core, self.metadata, None, None)
        asked = asked_time_out(self.definition, self.definition.keys[state], saying)
        await self._take(core, asked, read.head.version, None, Seen(read, None))


class _Tally:
    """What became of the time-outs so far."""

    def __init__(self) -> None:
        self.fired = self.overtaken = self.removed = 0
        self.refused: list[tuple[str, str]] = []
        self.undefined: list[tuple[str, str]] = []
        self.failed: list[tuple[str, str]] = []

    def report(self) -> TimersReport:
        return TimersReport(
            fired=self.fired,
            overtaken=self.overtaken,
            removed=self.removed,
            refused=tuple(self.refused),
            undefined=tuple(self.undefined),
            failed=tuple(self.failed),
        )


class _Runner:
    """Looks for what is due, and remembers between two looks what could not be done.

    Args:
        core: the core of the store.
        catalogue: the definitions at hand.
        metadata: who takes the steps, and why.
        concurrency: how many steps are taken at once.
    """

    def __init__(self, core: Core, catalogue: Catalogue, metadata: ChangeMetadata, concurrency: int) -> None:
        self._core = core
        self._catalogue = catalogue
        self._metadata = metadata
        self._limiter = anyio.CapacityLimiter(concurrency)
        self._pauses: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._tally = _Tally()

    async def look(self) -> TimersReport:
        """Take the steps that are due now."""
        self._tally = _Tally()
        now_us = self._core.settings.clock.now_us()
        documents = self._core.engine.scan(Scan(self._core.layout.timers, end=format_us(now_us + 1)))
        while page := await take(documents, TIMERS_AT_ONCE):
            await self._look_at([each for each in page if not self._is_paused(each.path, now_us)], now_us)
        return self._tally.report()

    async def _look_at(self, entries: Sequence[Document], now_us: int) -> None:
        """Read the machines of some entries of the index, and let those that are due take their step."""
        found = list(self._sound(entries, now_us))
        if not found:
            return
        reading = await self._core.engine.read([timer.stream.state for _, timer in found])
        reached = format_us(reading.time_us)
        errors: list[Unavailable] = []

        async def one(entry: Document, timer: Timer, state: Document | None) -> None:
            async with self._limiter:
                try:
                    await self._settle(entry, timer, state)
                except (ConcurrentModification, StateNotFound):
                    self._tally.overtaken += 1
                except Unavailable as error:
                    errors.append(error)
                except Exception as error:  # noqa: BLE001 - one machine never stops the others
                    self._left(self._list_for(error), timer.path, timer.stream.state, error, now_us)

        async with anyio.create_task_group() as tasks:
            for (entry, timer), state in zip(found, reading.documents, strict=True):
                if timer.due <= reached:
                    tasks.start_soon(one, entry, timer, state)
        if errors:
            raise errors[0]

    def _sound(self, entries: Sequence[Document], now_us: int) -> Iterator[tuple[Document, Timer]]:
        """The entries that can be read."""
        for entry in entries:
            try:
                yield entry, timer_in(self._core.layout, entry)
            except Inconsistent as error:
                self._left(self._tally.failed, entry.path, entry.path, error, now_us)

    async def _settle(self, entry: Document, timer: Timer, state: Document | None) -> None:
        """Let a machine take the step that is due; or remove the entry, if the machine has moved on."""
        core, stream = self._core, timer.stream
        read = None if state is None else read_at(timer, state)
        if read is None:
            is_removed = await write_unless_moved(core.engine, removal(entry, timer, state), core.bounds)
            self._tally.removed += is_removed
            return
        machine, _ = read_envelope(present_data(core, stream, read), stream.state)
        definition = self._catalogue.moving(machine, stream.state)
        await _DueMachine(core, stream, definition, self._metadata).take_time_out(read, machine.state)
        self._tally.fired += 1
        self._pauses.pop(timer.path, None)

    def _list_for(self, error: Exception) -> list[tuple[str, str]]:
        if isinstance(error, UnknownMachineState):
            return self._tally.undefined
        return self._tally.refused if isinstance(error, TransitionRefused) else self._tally.failed

    def _left(self, kind: list[tuple[str, str]], entry: str, path: str, error: Exception, now_us: int) -> None:
        """Note that a machine could not take its step, and leave it alone for a while."""
        said = str(error) or type(error).__name__
        if len(kind) < LISTED_MAX:
            kind.append((path, said))
        if not isinstance(error, TransitionRefused):  # which the machine has told of
            _log.warning("a time-out was not taken: %s", said, extra={"path": path})
        _, pause_us = self._pauses.pop(entry, (0, _PAUSE_US_MIN // 2))
        pause_us = min(2 * pause_us, _PAUSE_US_MAX)
        self._pauses[entry] = now_us + pause_us, pause_us
        if len(self._pauses) > _PAUSES_MAX:
            self._pauses.popitem(last=False)

    def _is_paused(self, entry: str, now_us: int) -> bool:
        return entry in self._pauses and self._pauses[entry][0] > now_us
