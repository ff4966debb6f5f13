"""Commands about locks: locks, unlock."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import typer

from tai_state.cli.common import Damage, JsonOption, StoreOption, YesOption, confirm, opened, run
from tai_state.cli.output import print_items, print_json, print_line, say
from tai_state.errors import LockNotFound
from tai_state.locks.listing import listed
from tai_state.locks.locking import LockManager
from tai_state.locks.records import LockInfo
from tai_state.locks.sighting import Sightings
from tai_state.store.opening import open_to_look
from tai_state.store.store import StateStore

_COLUMNS = ("resource", "holder", "fence", "acquired_at", "last_sign_at", "ttl", "remaining", "expired")


def locks(
    *,
    cleanup: Annotated[
        bool,
        typer.Option(
            "--cleanup", help="First remove what nobody needs: expired locks, what killed processes left, damage."
        ),
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the locks that are held or have expired. Expiry is known only if all users of the store share a clock."""

    async def command() -> None:
        damage = Damage(as_json=as_json)
        async with open_to_look(store, damage.report) as opened_store:
            core = opened_store.core
            is_known = core.engine.capabilities.shared_clock
            if cleanup:
                await LockManager(opened_store).cleanup_expired_locks()
            found = await print_items(
                listed(core, Sightings(core.engine, core.layout, anyio.current_time), damage.report),
                as_json=as_json,
                fields=lambda each: _fields(each, is_known=is_known),
                columns=_COLUMNS,
                row=lambda each: ["unknown" if it is None else it for it in _fields(each, is_known=is_known).values()],
            )
        if not as_json:
            if found and not is_known:
                say("the users of this store do not share a clock: a lock has expired if its last_sign_at has not")
                say("changed for 1.1 times its ttl")
                if cleanup:
                    say("--cleanup could not tell that; `tai-state unlock RESOURCE` removes such a lock")
            if not (found or damage):
                say("no locks")
        damage.end()

    run(command)


def _fields(lock: LockInfo, *, is_known: bool) -> dict[str, Any]:
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

    async def look() -> None:
        async with opened(store) as opened_store:
            core = opened_store.core
            if (await core.engine.read([core.layout.lock(resource)])).documents == (None,):
                raise LockNotFound(core.layout.lock(resource))

    if not yes:
        run(look)
    confirm(f"Take the lock on {resource!r} away from its holder, which may still be working?", yes=yes)

    async def command() -> None:
        async with opened(store) as opened_store:
            taken = await taken_away(opened_store, resource)
        if as_json:
            print_json({"resource": resource, "holder": taken.holder or None})
        else:
            print_line(
                f"{resource}: taken away from {taken.holder or 'its holder, whom the damaged document does not name'}"
            )

    run(command)


async def taken_away(store: StateStore, resource: str) -> LockInfo:
    """Take a lock away from its holder.

    Raises:
        LockNotFound: there is none.
    """
    taken = await LockManager(store).break_lock(resource)
    if taken is None:
        raise LockNotFound(store.core.layout.lock(resource))
    return taken
