"""Commands about locks: locks, unlock."""

from __future__ import annotations

from typing import Annotated

import typer

from tai_state.cli.app import JsonOption, StoreOption, YesOption, app, confirm, opened, run
from tai_state.cli.output import plain, print_json, print_line, print_table, say
from tai_state.locks.locking import LockManager


@app.command()
def locks(*, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the locks that are held, and those whose time has passed and that nobody took over yet."""

    async def command() -> None:
        async with opened(store) as opened_store:
            found = [each async for each in LockManager(opened_store).list_locks()]
        if as_json:
            print_json([{**plain(each), "expired": each.is_expired} for each in found])
        elif found:
            columns = ["resource", "holder", "fence", "acquired_at", "ttl", "remaining"]
            print_table(columns, [[getattr(each, name) for name in columns] for each in found])
        else:
            say("no locks")

    run(command)


@app.command()
def unlock(
    resource: Annotated[str, typer.Argument(metavar="RESOURCE", help="What is locked.")],
    *,
    yes: YesOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a lock away from its holder, whose fenced writes are refused from then on."""
    confirm(f"Take the lock on {resource!r} away from its holder, who may be at work?", yes=yes)

    async def command() -> None:
        async with opened(store) as opened_store:
            taken = await LockManager(opened_store).break_lock(resource)
        if as_json:
            print_json({"resource": resource, "holder": None if taken is None else taken.holder})
        else:
            print_line(
                f"{resource}: nobody holds it" if taken is None else f"{resource}: taken away from {taken.holder}"
            )

    run(command)
