"""Documents of the locks that are damaged: what removes each of them, and how others go on past it."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import msgspec

from tai_state.engines.api import ANYTHING, At, Document, Require, Scan, Shape
from tai_state.errors import CorruptDocument, Inconsistent
from tai_state.locks.records import BEAT, BREAK, LOCK, WAITER, WaiterRecord
from tai_state.streams.core import Core
from tai_state.streams.damage import Report
from tai_state.values.ids import stored_id

S = TypeVar("S", bound=msgspec.Struct)

_CLEANUP = "`cleanup_expired_locks` removes it"
_ADVICE: dict[Any, str] = {
    BEAT: f"it counts as a renewal until the lock is renewed or ends; without a lock, {_CLEANUP}",
    BREAK: f"{_CLEANUP} a day after it was written",
    WAITER: f"it is passed over, and {_CLEANUP}",
}

_logger = logging.getLogger("tai_state.locks")


def decoded(document: Document, shape: Shape[S]) -> S:
    """What a document of the locks says.

    Raises:
        CorruptDocument: it is damaged; the error says what to do about it.
    """
    try:
        return document.decode(shape)
    except CorruptDocument as error:
        what, advice = error.what.partition(": restore")[0].partition(": run")[0], _ADVICE.get(shape)
        if advice is None:
            advice = f"run `tai-state unlock {resource_of(document)!r}`, or call `break_lock`"
        raise CorruptDocument(error.path, f"{what}: {advice}") from None


def resource_of(document: Document) -> str:
    """The resource after which a lock, or its renewals, are named.

    Raises:
        CorruptDocument: no resource has this name; the error says what to do about it.
    """
    try:
        return stored_id(document.path)
    except CorruptDocument as error:
        raise CorruptDocument(error.path, f"{error.what}, so it belongs to no resource: {_CLEANUP}") from None


def as_read(document: Document) -> Require:
    """What to require for the removal of a document that may be damaged: damage can hide its revision, too."""
    return At(document.revision) if document.revision else ANYTHING


def skipped(error: Inconsistent) -> None:
    """Report a damaged document to the log alone, and go on with the others."""
    _logger.warning("a damaged document of the locks was skipped", extra=error.fields())


def sound_waiter(document: Document) -> WaiterRecord | None:
    """What a waiter's document says; None if it is damaged: then it is skipped, and reported to the log."""
    try:
        return decoded(document, WAITER)
    except CorruptDocument as error:
        skipped(error)
        return None


def nonce_of(document: Document, shape: Shape[Any]) -> str | None:
    """The nonce in the document of a lock, or of its renewals; None if it is damaged."""
    try:
        nonce: str = document.decode(shape).nonce
    except CorruptDocument:
        return None
    return nonce


async def check_locks(core: Core, report: Report) -> None:
    """Report every damaged document that locks have written."""
    engine, layout = core.engine, core.layout
    locks = {document.id async for document in engine.scan(Scan(layout.locks))}
    locks.update(await engine.missing(layout.locks))
    shapes: dict[str, Shape[Any]] = {layout.locks: LOCK, layout.lockbeats: BEAT, layout.lockbreaks: BREAK}
    shapes |= {f"{layout.locks}/{each}/waiters": WAITER for each in sorted(locks)}
    for collection, shape in shapes.items():
        async for document in engine.scan(Scan(collection)):
            try:
                if shape is LOCK or shape is BEAT:
                    resource_of(document)
                decoded(document, shape)
            except CorruptDocument as error:
                report(error)
