"""What runs in this process after a step was committed. Not pure: it waits, and logs."""

from __future__ import annotations

import logging
from inspect import isawaitable
from typing import Any, Final

import anyio

from tai_state.machines.asking import Attempt
from tai_state.machines.contexts import C, TakenStep
from tai_state.machines.states import S
from tai_state.streams.layout import Stream

AFTER_COMMIT_SECONDS_MAX: Final = 30.0
"""How long an asynchronous ``after_commit`` may take."""

_log = logging.getLogger("tai_state.machines")


async def run_after_commit(stream: Stream, attempt: Attempt[S, C], version: int) -> None:
    """Run what the rule of a committed step wants to run. What it raises is logged: the step stands.

    Args:
        stream: the stream of the machine.
        attempt: the step, as it was judged for the commit.
        version: the version of the machine's state after it.
    """
    step = attempt.step
    if step is None or step.rule is None or step.rule.after_commit is None:
        return
    taken = TakenStep(
        machine=stream.state,
        before=step.before,
        after=step.after,
        trigger=step.trigger,
        rule=step.rule.name,
        governor_id=stream.governor_id,
        state_id=stream.state_id,
        version=version,
        event_id=attempt.made.event_id,
    )
    try:
        running: Any = step.rule.after_commit(taken)
        if isawaitable(running):
            with anyio.fail_after(AFTER_COMMIT_SECONDS_MAX):
                await running
    except Exception:  # noqa: BLE001 - the step is committed
        ids = {
            "governor_id": stream.governor_id,
            "state_id": stream.state_id,
            "version": version,
            "event_id": taken.event_id,
        }
        _log.exception("%s: after_commit of the rule %r failed; the step stands", stream.state, taken.rule, extra=ids)
