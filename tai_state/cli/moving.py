"""Commands that move history: import, export, restore, backup."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tai_state.cli.common import (
    Damage,
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
from tai_state.cli.output import Progress, plain, print_facts, print_json
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.history.csvfile import Columns, CsvFile
from tai_state.history.exportfile import TransferStats, check_export, opened_export
from tai_state.history.importing import CsvImport, ImportStats
from tai_state.history.persister import StateMachinePersister
from tai_state.history.wholefile import whole_file
from tai_state.store.addresses import Address
from tai_state.store.opening import open_store
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

    async def command(rows: CsvFile) -> None:
        damage = Damage(as_json=as_json)
        with Progress() as line:

            async def acknowledged(stats: ImportStats) -> None:
                if as_json:
                    print_json({"acknowledged": stats.events, "skipped": stats.skipped})
                else:
                    line.show(f"{stats.events:,} events recorded, {stats.skipped:,} already there")

            async with opened(store, create=True) as target:
                stats = await CsvImport(target.core, rows, damage.report).run(acknowledged)
        print_facts(plain(stats), as_json=as_json)
        damage.end()

    with CsvFile(file, governor, Columns(machine, tuple(state.split(",")), time, by)) as rows:
        rows.check(Address.parse(store).engine(SystemClock(), create=True).capabilities)  # before a store is created
        run(partial(command, rows))


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
    _check_target(file, yes=yes)

    async def command() -> None:
        async with opened(store) as opened_store:
            _check_no_log(file)
            with _written_by_name(file):
                stats = await StateMachinePersister(opened_store).export_history(governor, file)
        _print(stats, as_json=as_json)

    run(command)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `tai-state export` wrote.")],
    *,
    keep_changed: Annotated[
        bool,
        typer.Option("--keep-changed", help="After an interrupted restore, also of another file: keep what is there."),
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an exported governor into a store that does not have it. If interrupted, run it again to go on."""
    check_file(file)
    with opened_export(file) as export:
        check_export(export)

    async def command() -> None:
        async with opened(store, create=True) as opened_store:
            stats = await StateMachinePersister(opened_store).import_history(file, keep_changed=keep_changed)
        _print(stats, as_json=as_json)

    run(command)


def _print(stats: TransferStats, *, as_json: bool) -> None:
    facts = {name: value for name, value in plain(stats).items() if value != []}  # what was kept: mostly nothing
    print_facts(facts, as_json=as_json, columns=("what", "value"))


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    *,
    yes: YesOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a whole SQLite store to a file, while others write to it. The file opens as a store."""
    _check_target(file, yes=yes)
    address = Address.parse(store)
    engine = address.engine(SystemClock(), create=False)
    if not isinstance(engine, SqliteEngine):
        raise UsageError(f"{engine} is not a file: back it up as its documentation says, or export its governors")

    async def command() -> None:
        with Progress() as line, _written_by_name(file):

            def copied(pages: int, of_pages: int) -> None:
                if not as_json:
                    line.show(f"{pages:,} of {of_pages:,} pages copied")

            async with open_store(engine, root=address.root, namespace=address.namespace, schema=None, create=False):
                _check_no_log(file)
                async with whole_file(file) as partial:
                    # Who may not read the store may not read the copy either.
                    mode = stat.S_IMODE(os.stat(engine.path).st_mode)  # noqa: PTH116
                    partial.touch(mode | stat.S_IRUSR | stat.S_IWUSR, exist_ok=False)
                    documents = await engine.backup(str(partial), copied)
        print_facts({"documents": documents, "bytes": file.stat().st_size}, as_json=as_json)

    run(command)


def _check_target(file: Path, *, yes: bool) -> None:
    """Raise ``UsageError`` if a file cannot be written; ask if it exists."""
    if str(file) == "-":
        raise UsageError("'-' does not mean stdout here: name a file")
    if file.exists():
        check_file(file)
        confirm(f"{str(file)!r} exists. Replace it?", yes=yes)


def _check_no_log(file: Path) -> None:
    """Raise ``UsageError`` if SQLite would take a log that is there for the log of this file.

    While a store is open, its file has one.
    """
    if any(Path(f"{os.path.realpath(file)}-{log}").exists() for log in ("wal", "journal")):
        raise UsageError(f"{str(file)!r} is a store in use, or a log was left beside it: name another file")


@contextmanager
def _written_by_name(file: Path) -> Generator[None]:
    """Turn a failure to write a file into a ``UsageError`` that names it."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{str(file)!r} cannot be written: {error.strerror or error}") from error
