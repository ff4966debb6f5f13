"""Whether locks that are wanted together fit into each commit that they may need."""

from __future__ import annotations

from tai_state.engines.api import Capabilities, Delete, Put
from tai_state.engines.batching import weight_of_all
from tai_state.errors import CommitTooLarge
from tai_state.locks.lease import Claim
from tai_state.locks.records import LockRecord
from tai_state.streams.layout import Layout
from tai_state.values.times import format_us

_WRITES_EACH = 3


def check_fit(claim: Claim, layout: Layout, capabilities: Capabilities) -> None:
    """Refuse to acquire together what could not be taken over, renewed or released together.

    The largest of these commits takes the locks over for a waiter: for each, it puts the lock, deletes the last
    renewal, and deletes the waiter's place in line. A renewal or a release makes two smaller writes for each.

    Raises:
        CommitTooLarge: the engine's limits are too small; the limit is how many of the locks fit.
    """
    resources = claim.resources
    if len(resources) == 1:
        return
    record = LockRecord(claim.holder, claim.nonce, claim.ttl_seconds, format_us(0))
    fitting, size = 0, 0
    for resource in resources[: capabilities.max_ops_per_commit // _WRITES_EACH]:
        waiter = f"{layout.waiters(resource)}/{claim.nonce}"
        writes = (Put(layout.lock(resource), record), Delete(layout.lockbeat(resource)), Delete(waiter))
        size += weight_of_all(writes).size
        if size > capabilities.max_bytes_per_commit:
            break
        fitting += 1
    if fitting < len(resources):
        raise CommitTooLarge("locks", len(resources), max(1, fitting))
