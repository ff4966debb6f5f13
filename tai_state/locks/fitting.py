"""Whether locks that are wanted together fit into each commit that they may need."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tai_state.engines.api import Capabilities, Delete, Put
from tai_state.engines.batching import weight_of_all
from tai_state.errors import CommitTooLarge
from tai_state.locks.lease import Claim
from tai_state.locks.queueing import WAITER_TTL_SECONDS
from tai_state.locks.records import HeldLock, LockRecord, WaiterRecord
from tai_state.streams.layout import Layout
from tai_state.values.times import format_us

_WRITES_EACH = 3

_ITEM_BYTES = 8
"""What a name in a list takes at most in an engine's own form, beyond its JSON."""

_WIDEST = 2**63 - 1
"""The widest number that a document has."""

_NUMBER_LENGTH = 13
"""How long the number and the dash are with which the id of a place in line begins."""


def check_fit(claim: Claim, layout: Layout, capabilities: Capabilities, *, may_wait: bool) -> None:
    """Refuse to acquire together what could not be waited for, taken over, renewed or released together.

    Raises:
        CommitTooLarge: the engine's limits are too small; the limit is how many of the locks fit.
    """
    wanted = len(claim.resources)
    if wanted == 1:
        return
    fitting = _takeable(claim, layout, capabilities)
    if may_wait:
        fitting = min(fitting, _waitable(claim, (), layout, capabilities))
    if fitting < wanted:
        raise CommitTooLarge("locks", wanted, max(1, fitting))


def check_place(claim: Claim, holds: Sequence[HeldLock], layout: Layout, capabilities: Capabilities) -> None:
    """Refuse to wait in line with more than has room in a place there.

    Raises:
        CommitTooLarge: the engine's limits are too small; the limit is how many locks fit, first of those that are
            wanted, then of those that are held meanwhile.
    """
    named = len(claim.resources) + len(holds)
    fitting = _waitable(claim, holds, layout, capabilities)
    if fitting < named:
        raise CommitTooLarge("locks", named, fitting)


def _takeable(claim: Claim, layout: Layout, capabilities: Capabilities) -> int:
    """How many of the locks fit into the commit that takes them over for a waiter.

    For each, it puts the lock, deletes the last renewal, and deletes the waiter's place in line. A renewal or a release
    makes two smaller writes for each.
    """
    record = LockRecord(claim.holder, claim.nonce, claim.ttl_seconds, format_us(0))
    fitting, size = 0, 0
    for resource in claim.resources[: capabilities.max_ops_per_commit // _WRITES_EACH]:
        waiter = f"{layout.waiters(resource)}/{claim.nonce}"
        writes = (Put(layout.lock(resource), record), Delete(layout.lockbeat(resource)), Delete(waiter))
        size += weight_of_all(writes).size
        if size > capabilities.max_bytes_per_commit:
            break
        fitting += 1
    return fitting


def _waitable(claim: Claim, holds: Sequence[HeldLock], layout: Layout, capabilities: Capabilities) -> int:
    """How many locks fit into the places in line of a waiter: one for each that it wants, each of which names all.

    Each place counts with the largest size that it can reach. So a waiter that has entered a line can stay in it.
    """
    bare = WaiterRecord(holder=claim.holder, holds=(), wants=(), ttl=WAITER_TTL_SECONDS, ticket=_WIDEST, n=_WIDEST)
    document, ids, places, fitting = len(msgspec.json.encode(bare)), 0, 0, 0
    names: list[str | HeldLock] = [*claim.resources, *holds]
    for each in names:
        document += len(msgspec.json.encode(each)) + _ITEM_BYTES
        if isinstance(each, str):
            places += 1
            ids += len(layout.waiters(each).encode()) + 1 + _NUMBER_LENGTH + len(claim.nonce)
        if document > capabilities.max_document_bytes or places * document + ids > capabilities.max_bytes_per_commit:
            break
        fitting += 1
    return fitting
