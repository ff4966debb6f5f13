"""The index of time-outs: a document for each machine that has one, so that a scan of ids finds what is due.

The index follows from the data of states: whoever writes a state puts and deletes in the same commit. The revision of
the state guards that commit, so what it does to the index requires nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from tai_state.engines.api import ABSENT, ANYTHING, At, Check, Delete, Document, Put, Require, Shape, Write
from tai_state.errors import CorruptDocument, InvalidId
from tai_state.streams.damage import as_read
from tai_state.streams.layout import Layout, Stream

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)

_RECOVER: Final = "run `tai-state recover`"


class TimerRecord(msgspec.Struct, frozen=True):
    """``timers/{due}~{h}``: which machine has a time-out then.

    Attributes:
        governor_id: the owner and namespace.
        state_id: the state under it.
    """

    governor_id: str
    state_id: str


TIMER = Shape(TimerRecord, _RECOVER)


class Timer(msgspec.Struct, frozen=True):
    """An entry of the index: a stream, and when its time-out is due, as text."""

    stream: Stream
    due: str

    @property
    def path(self) -> str:
        """The path of its document."""
        return self.stream.timer(self.due)


def due_of(data: dict[str, Any] | None) -> str | None:
    """When a time-out is due by the data of a state, as text; None if the state has none, or is no machine."""
    if data is None or "machine" not in data:
        return None
    machine: dict[str, Any] = data["machine"]
    due: object = machine.get("due") if type(machine) is dict else None
    return due if type(due) is str and _TIME.fullmatch(due) else None


def moved_timer(stream: Stream, before: str | None, after: str | None) -> Iterator[Write]:
    """The writes that make the index follow a state whose time-out was due at one time, and is due at another one."""
    if before is not None and before != after:
        yield Delete(stream.timer(before), ANYTHING)
    if after is not None:
        yield put_timer(stream, after)


def put_timer(stream: Stream, due: str, require: Require = ANYTHING) -> Put:
    """The write of an entry; writing it twice is harmless."""
    return Put(stream.timer(due), TimerRecord(stream.governor_id, stream.state_id), require)


def removal(entry: Document, timer: Timer, state: Document | None) -> tuple[Write, ...]:
    """The writes that remove an entry, unless its state has changed since it was read."""
    require: Require = ABSENT if state is None else At(state.revision)
    return Delete(entry.path, as_read(entry)), Check(timer.stream.state, require)


def timer_in(layout: Layout, document: Document) -> Timer:
    """The entry that a document of the index is.

    Raises:
        CorruptDocument: it cannot be decoded, or does not stand where an entry for its machine would.
    """
    record = document.decode(TIMER)
    due = document.id.partition("~")[0]
    try:
        timer = Timer(layout.stream(record.governor_id, record.state_id), due)
    except InvalidId:
        raise CorruptDocument(document.path, f"names a machine by an id that is not valid: {_RECOVER}") from None
    if timer.path != document.path or not _TIME.fullmatch(due):
        raise CorruptDocument(document.path, f"is not the path of a time-out of the machine that it names: {_RECOVER}")
    return timer
