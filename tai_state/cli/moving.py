"""Commands that move history: import, export, restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tai_state.cli.app import (
    GovernorArgument,
    JsonOption,
    StoreOption,
    YesOption,
    app,
    check_file,
    confirm,
    opened,
    run,
)
from tai_state.cli.output import plain, print_json, print_table, say
from tai_state.history.importing import Columns, ImportStats
from tai_state.history.persister import StateMachinePersister

FileArgument = Annotated[Path, typer.Argument(metavar="FILE")]


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV in UTF-8 with a header; .gz is read too.")],
    *,
    governor: Annotated[str, typer.Option(metavar="GOVERNOR", help="Whose machines.")],
    machine: Annotated[str, typer.Option(metavar="COLUMN", help="The machine's id.")],
    state: Annotated[str, typer.Option(metavar="COLUMN[,COLUMN…]", help="The state's data.")],
    time: Annotated[str, typer.Option(metavar="COLUMN", help="When it happened.")],
    by: Annotated[str | None, typer.Option(metavar="COLUMN", help="Who changed it.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record a log of changes: one row, one event. Run again, it records nothing twice."""
    check_file(file)
    columns = Columns(machine, tuple(state.split(",")), time, by)

    async def acknowledged(stats: ImportStats) -> None:
        if as_json:
            print_json({"acknowledged": stats.events, "skipped": stats.skipped})
        else:
            say(f"{stats.events:,} events recorded, {stats.skipped:,} there already")

    async def command() -> None:
        async with opened(store, create=True) as opened_store:
            stats = await StateMachinePersister(opened_store).import_csv(governor, file, columns, acknowledged)
        if as_json:
            print_json(stats)
        else:
            print_table(["what", "count"], list(plain(stats).items()))

    run(command)


@app.command()
def export(
    governor: GovernorArgument,
    file: FileArgument,
    *,
    yes: YesOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a governor's whole history to a file, digests included."""
    if file.exists():
        confirm(f"{str(file)!r} exists. Replace it?", yes=yes)

    async def command() -> None:
        async with opened(store) as opened_store:
            stats = await StateMachinePersister(opened_store).export_history(governor, file)
        if as_json:
            print_json(stats)
        else:
            print_table(["what", "count"], list(plain(stats).items()))

    run(command)


@app.command()
def restore(file: FileArgument, *, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Write an exported governor into a store that does not have it. Interrupted, it goes on when run again."""
    check_file(file)

    async def command() -> None:
        async with opened(store, create=True) as opened_store:
            stats = await StateMachinePersister(opened_store).import_history(file)
        if as_json:
            print_json(stats)
        else:
            print_table(["what", "count"], list(plain(stats).items()))

    run(command)
