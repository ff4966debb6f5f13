"""Commands that move history: import, export, restore, backup."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

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
from tai_state.errors import CorruptDocument, Inconsistent
from tai_state.history.csvfile import Columns, CsvFile
from tai_state.history.exportfile import TransferStats, check_export, opened_export
from tai_state.history.importing import CsvImport, ImportStats
from tai_state.history.persister import StateMachinePersister
from tai_state.history.wholefile import whole_file
from tai_state.store.addresses import Address
from tai_state.store.opening import open_to_look
from tai_state.streams.settings import SystemClock
from tai_state.values.counting import counted


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
                    line.show(f"{counted(stats.events, 'event')} recorded, {stats.skipped:,} already there")

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

    async def look() -> None:
        async with opened(store) as opened_store:
            await opened_store.core.require_governor(governor)

    _check_target(file, look, yes=yes)

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
    engine = Address.parse(store).engine(SystemClock(), create=False)
    if not isinstance(engine, SqliteEngine):
        raise UsageError(f"{engine} is not a file: back it up as its documentation says, or export its governors")

    async def look() -> None:
        async with _looked_at(store):
            pass

    _check_target(file, look, yes=yes)

    async def command() -> None:
        with Progress() as line, _written_by_name(file):

            def progress(pages: int, of_pages: int) -> None:
                if not as_json:
                    line.show(f"{pages:,} of {counted(of_pages, 'page')} copied")

            async with _looked_at(store) as damaged:
                _check_no_log(file)
                async with whole_file(file) as partial:
                    # Who may not read the store may not read the copy either.
                    mode = stat.S_IMODE(os.stat(engine.path).st_mode)  # noqa: PTH116
                    partial.touch(mode | stat.S_IRUSR | stat.S_IWUSR, exist_ok=False)
                    copied = await engine.backup(str(partial), progress)
                    found = [*damaged, *copied.damage]
                    if found and file.exists():
                        found[0].add_note("; to keep a copy of the damaged store, name another file")
                        raise found[0]
        documents = "unknown" if copied.documents is None and not as_json else copied.documents
        print_facts({"documents": documents, "bytes": file.stat().st_size}, as_json=as_json)
        damage = Damage(as_json=as_json)
        for each in found:
            damage.report(each)
        damage.end()

    run(command)


@asynccontextmanager
async def _looked_at(store: str | None) -> AsyncGenerator[list[Inconsistent]]:
    """A store that is open during the block, unless it is too damaged for that; and what is damaged."""
    found: list[Inconsistent] = []
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(open_to_look(store, found.append))
        except CorruptDocument as error:
            found.append(error)
        yield found


def _check_target(file: Path, look: Callable[[], Coroutine[Any, Any, None]], *, yes: bool) -> None:
    """Raise ``UsageError`` if a file cannot be written. If it exists, look for what is to replace it, and ask."""
    if str(file) == "-":
        raise UsageError("'-' does not mean stdout here: name a file")
    if file.exists():
        check_file(file)
        if not yes:
            run(look)
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
