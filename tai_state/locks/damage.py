"""Documents of the locks that are damaged: what removes each of them, and how others go on past it."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import msgspec

from tai_state.engines.api import Damage, Document, Scan, Shape
from tai_state.errors import CorruptDocument, Inconsistent
from tai_state.locks.records import BEAT, BREAK, CLEANUP, LOCK, WAITER, WaiterRecord
from tai_state.streams.core import Core
from tai_state.streams.damage import Report, fault
from tai_state.streams.surveying import lock_collections
from tai_state.values.commands import command
from tai_state.values.ids import stored_id

S = TypeVar("S", bound=msgspec.Struct)

_logger = logging.getLogger("tai_state.locks")


def decoded(document: Document, shape: Shape[S]) -> S:
    """What a document of the locks says.

    Raises:
        CorruptDocument: it is damaged; the error says what to do about it.
    """
    try:
        return document.decode(shape)
    except CorruptDocument as error:
        if shape is not LOCK and shape is not BEAT and not is_nameless(document):
            raise
        unlock = command("unlock", resource_of(document))
        if shape is LOCK:
            advice = f"run {unlock}, or call `break_lock`"
        else:
            meanwhile = "it counts as a renewal until the lock is renewed, or ends, as by"
            advice = f"{meanwhile} {unlock}; without a lock, {CLEANUP}"
        raise CorruptDocument(error.path, f"{fault(error)}: {advice}") from None


def resource_of(document: Document) -> str:
    """The resource after which a lock, or its renewals, are named.

    Raises:
        CorruptDocument: no resource has this name; the error says what to do about it.
    """
    try:
        if isinstance(document.content, Damage) and document.content.is_nameless:
            raise CorruptDocument(document.path, document.content.what)
        return stored_id(document.path)
    except CorruptDocument as error:
        raise CorruptDocument(error.path, f"{error.what}, so it belongs to no resource: {CLEANUP}") from None


def is_nameless(document: Document) -> bool:
    """Whether its name is so damaged that no read finds it."""
    return isinstance(document.content, Damage) and document.content.is_nameless


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
    layout = core.layout
    shapes: dict[str, Shape[Any]] = {layout.locks: LOCK, layout.lockbeats: BEAT, layout.lockbreaks: BREAK}
    for collection in await lock_collections(core):
        shape = shapes.get(collection, WAITER)
        async for document in core.engine.scan(Scan(collection)):
            try:
                if shape is LOCK or shape is BEAT:
                    resource_of(document)
                decoded(document, shape)
            except CorruptDocument as error:
                report(error)
