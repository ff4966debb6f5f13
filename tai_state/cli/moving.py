"""Commands that move history: import, export, restore."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tai_state.cli.common import (
    GovernorArgument,
    JsonOption,
    StoreOption,
    UsageError,
    YesOption,
    check_file,
    confirm,
    opened,
    run,
)
from tai_state.cli.output import Progress, plain, print_json, print_table
from tai_state.history.csvfile import Columns, CsvFile
from tai_state.history.exportfile import check_export
from tai_state.history.importing import CsvImport, ImportStats
from tai_state.history.persister import StateMachinePersister
from tai_state.store.addresses import Address
from tai_state.streams.settings import SystemClock


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV file in UTF-8 with a header; may be .gz.")],
    *,
    governor: Annotated[str, typer.Option(metavar="GOVERNOR", help="The governor to record under.")],
    machine: Annotated[str, typer.Option(metavar="COLUMN", help="The column with the machine's id.")],
    state: Annotated[
        str, typer.Option(metavar="COLUMN[,COLUMN...]", help="The columns that make up the state's data.")
    ],
    time: Annotated[
        str, typer.Option(metavar="COLUMN", help="The column with the time of the change; UTC if it has no offset.")
    ],
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column with who made the change; default: 'import'.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record a log of changes, one event per row. If run again, it records nothing twice."""
    check_file(file)
    rows = CsvFile(file, governor, Columns(machine, tuple(state.split(",")), time, by))
    rows.check(Address.parse(store).engine(SystemClock(), create=True).capabilities)  # before a store is created

    async def command() -> None:
        with Progress() as line:

            async def acknowledged(stats: ImportStats) -> None:
                if as_json:
                    print_json({"acknowledged": stats.events, "skipped": stats.skipped})
                else:
                    line.show(f"{stats.events:,} events recorded, {stats.skipped:,} already there")

            async with opened(store, create=True) as target:
                stats = await CsvImport(target.core, rows).run(acknowledged)
        _print_counts(plain(stats), as_json=as_json)

    run(command)


def export(
    governor: GovernorArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to write, in lines of JSON; with gzip if it ends in .gz.")
    ],
    *,
    yes: YesOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the whole history of a governor to a file. Digests are included."""
    if str(file) == "-":
        raise UsageError("'-' does not mean stdout here: name a file")
    if file.exists():
        check_file(file)
        confirm(f"{str(file)!r} exists. Replace it?", yes=yes)

    async def command() -> None:
        async with opened(store) as opened_store:
            try:
                stats = await StateMachinePersister(opened_store).export_history(governor, file)
            except OSError as error:
                raise UsageError(f"{str(file)!r} cannot be written: {error.strerror or error}") from error
        _print_counts(plain(stats), as_json=as_json)

    run(command)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `tai-state export` wrote.")],
    *,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an exported governor into a store that does not have it. If interrupted, run it again to go on."""
    check_file(file)
    check_export(file)

    async def command() -> None:
        async with opened(store, create=True) as opened_store:
            stats = await StateMachinePersister(opened_store).import_history(file)
        _print_counts(plain(stats), as_json=as_json)

    run(command)


def _print_counts(counts: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(counts)
    else:
        print_table(["what", "count"], list(counts.items()))
