"""Running the pending effects of a stored machine, and recording that they are done. Not pure: it waits, and logs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any, Final, TypeAlias

import anyio
import msgspec

from tai_state.errors import InvalidData
from tai_state.machines.contexts import C
from tai_state.machines.effects import EFFECT_DONE, PendingEffect, with_effects
from tai_state.machines.envelope import read_envelope
from tai_state.machines.snapshots import MachineSnapshot
from tai_state.machines.states import S
from tai_state.streams import writing
from tai_state.streams.changes import Known
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.planning import Composition, Draft
from tai_state.streams.repeating import COMPUTED
from tai_state.streams.writing import Intent
from tai_state.values.checks import check_callable
from tai_state.values.json import normalise_object
from tai_state.values.metadata import ChangeMetadata, check_text

FAILURES_LISTED_MAX: Final = 1_000
"""How many failures a report lists."""

EffectHandler: TypeAlias = Callable[[PendingEffect, MachineSnapshot[S, C]], Awaitable[None] | None]
"""Has an effect: a function of the effect and of the machine as it is now, or an asynchronous one."""

_log = logging.getLogger("tai_state.machines")


class EffectsReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of pending effects. It counts all, and lists the first 1,000 failures.

    Attributes:
        done: how many effects were had, and are recorded as done.
        left: how many effects are pending still because no handler, or no definition, was given for them.
        failed: the id of each effect whose handler failed, or whose completion did, or the path of a machine that could
            not be read; and why. What failed is pending still, and is tried again next time.
        failed_count: how many failed.
    """

    done: int = 0
    left: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    failed_count: int = 0

    def with_failure(self, what: str, error: Exception) -> EffectsReport:
        """This report with one more failure, counted, and listed if there is room."""
        failed = (*self.failed, (what, f"{type(error).__name__}: {error}"))[:FAILURES_LISTED_MAX]
        return msgspec.structs.replace(self, failed=failed, failed_count=self.failed_count + 1)

    def with_report(self, other: EffectsReport) -> EffectsReport:
        """This report and another one, as one."""
        return EffectsReport(
            done=self.done + other.done,
            left=self.left + other.left,
            failed=(*self.failed, *other.failed)[:FAILURES_LISTED_MAX],
            failed_count=self.failed_count + other.failed_count,
        )


def check_handlers(handlers: object) -> None:
    """Check the handlers of effects.

    Raises:
        InvalidData: they are not functions by the names of effects.
    """
    if not isinstance(handlers, Mapping):
        raise InvalidData(f"handlers must be a mapping of the names of effects to functions, not {handlers!r}")
    known: Mapping[Any, object] = handlers  # pyright: ignore[reportUnknownVariableType] - checked below
    for name, handler in known.items():
        check_text(name, "the name of an effect")
        check_callable(handler, f"the handler of {name!r}")


async def run_pending(
    machine: MachineSnapshot[S, C],
    handlers: Mapping[str, EffectHandler[S, C]],
    complete: Callable[[str], Awaitable[MachineSnapshot[S, C]]],
    timeout_seconds: float,
) -> EffectsReport:
    """Run the pending effects of a machine, and record those that succeed as done.

    Args:
        machine: the machine.
        handlers: by the name of an effect, the function that runs it.
        complete: records that an effect is done, by its id, and gives the machine after that.
        timeout_seconds: how long an asynchronous handler may take.
    """
    report = EffectsReport()
    for effect in machine.effects:
        handler = handlers.get(effect.name)
        if effect not in machine.effects:
            continue  # another runner was faster
        if handler is None:
            report = report.with_report(EffectsReport(left=1))
            continue
        try:
            running: Any = handler(effect, machine)
            if isawaitable(running):
                with anyio.fail_after(timeout_seconds):
                    await running
            machine = await complete(effect.id)
        except Exception as error:  # noqa: BLE001 - the effect is pending still, and the others go on
            _tell_failure(machine, effect)
            report = report.with_failure(effect.id, error)
        else:
            report = report.with_report(EffectsReport(done=1))
    return report


def _tell_failure(machine: MachineSnapshot[Any, Any], effect: PendingEffect) -> None:
    """Log the error that is being handled, and that the effect stays pending."""
    ids = {"governor_id": machine.governor_id, "state_id": machine.state_id, "effect_id": effect.id}
    what = "%s of %s: the effect %r failed, and is pending still"
    _log.exception(what, machine.state_id, machine.governor_id, effect.name, extra=ids)


class Completion:
    """Composes the event that an effect is done. It changes nothing else of the machine, and counts as no step.

    Args:
        core: the store's core.
        stream: the stream of the machine.
        effect_id: the id of the effect.
        who: who says so.
        is_reasoned: whether they gave a reason; otherwise the effect is the reason.

    Attributes:
        made: the draft of the event.

    Raises:
        InvalidData: the id or the metadata cannot be stored.
    """

    def __init__(
        self, core: Core, stream: Stream, effect_id: str, who: ChangeMetadata, *, is_reasoned: bool = False
    ) -> None:
        check_text(effect_id, "effect_id")
        reasoned = who if is_reasoned else msgspec.structs.replace(who, reason=f"Effect: {effect_id}")
        intent = Intent(reasoned, EFFECT_DONE, payload={"effect": effect_id})
        self.made: Draft = writing.draft(core, stream, intent, state=COMPUTED)
        self._core = core
        self._stream = stream
        self._effect_id = effect_id

    def compose(self, known: Known) -> Composition | None:
        """The event, and the machine without the effect; None if the effect is not pending.

        Raises:
            SerializationError: the state is not that of a machine.
        """
        present = writing.present_data(self._core, self._stream, known)
        record, _ = read_envelope(present, self._stream.state)
        left = [effect for effect in record.effects if effect.id != self._effect_id]
        if present is None or len(left) == len(record.effects):
            return None
        text, data = normalise_object(with_effects(present, left), "the machine")
        return Composition((msgspec.structs.replace(self.made, state=text, carries_state=True),), data)
