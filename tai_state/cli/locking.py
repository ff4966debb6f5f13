"""Commands about locks: locks, unlock."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tai_state.cli.common import JsonOption, StoreOption, YesOption, confirm, opened, run
from tai_state.cli.output import print_json, print_line, print_table, say
from tai_state.locks.locking import LockManager
from tai_state.locks.records import LockInfo


def locks(*, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the locks that are held or have expired. Expiry is shown only if all users of the store share a clock."""

    async def command() -> None:
        async with opened(store) as opened_store:
            is_known = opened_store.core.engine.capabilities.shared_clock
            rows = [_row(each, is_known=is_known) async for each in LockManager(opened_store).list_locks()]
        if as_json:
            print_json(rows)
        elif rows:
            print_table(list(rows[0]), [["unknown" if cell is None else cell for cell in row.values()] for row in rows])
            if not is_known:
                say("the users of this store do not share a clock: a lock has expired if its last_sign_at has not")
                say("changed for 1.1 times its ttl")
        else:
            say("no locks")

    run(command)


def _row(lock: LockInfo, *, is_known: bool) -> dict[str, Any]:
    """A lock as it is listed. What a single look cannot show is None: it would take watching the lock."""
    return {
        "resource": lock.resource,
        "holder": lock.holder,
        "fence": lock.fence,
        "acquired_at": lock.acquired_at,
        "last_sign_at": lock.last_sign_at,
        "ttl": lock.ttl_seconds,
        "remaining": round(lock.remaining_seconds, 3) if is_known else None,
        "expired": lock.is_expired if is_known else None,
    }


def unlock(
    resource: Annotated[str, typer.Argument(metavar="RESOURCE", help="The resource that is locked.")],
    *,
    yes: YesOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a lock away from its holder. The holder's fenced writes are refused from then on."""
    confirm(f"Take the lock on {resource!r} away from its holder, which may still be working?", yes=yes)

    async def command() -> None:
        async with opened(store) as opened_store:
            taken = await LockManager(opened_store).break_lock(resource)
        if as_json:
            print_json({"resource": resource, "holder": None if taken is None else taken.holder})
        else:
            print_line(f"{resource}: not held" if taken is None else f"{resource}: taken away from {taken.holder}")

    run(command)
