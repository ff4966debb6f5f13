"""What the commands share: options, confirmation and exit codes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import anyio
import typer

from tai_state.cli.output import print_error, print_items, say
from tai_state.errors import Inconsistent
from tai_state.store.opening import open_store, open_to_look
from tai_state.store.store import StateStore

T = TypeVar("T")

USAGE = 2
INCONSISTENT = 4
UNEXPECTED = 70
INTERRUPTED = 130
PIPE_CLOSED = 141

StoreOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="The store's address. Default: TAI_STATE_STORE, or ./tai-state.db."),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print only JSON.")]
YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
GovernorArgument: TypeAlias = Annotated[str, typer.Argument(metavar="GOVERNOR", help="The governor's id.")]
StateArgument: TypeAlias = Annotated[str, typer.Argument(metavar="STATE", help="The state's id.")]
AppOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--app", metavar="MODULE:ATTRIBUTE", help="A mapping of actions to reducers, if events need them."),
]


class UsageError(Exception):
    """The command line cannot be understood, or names a file that cannot be used."""


class Interrupted(Exception):
    """The user pressed Ctrl-C, or the program was told to end."""


class Declined(Exception):
    """The user was asked to confirm, and did not say yes."""


class Damage:
    """What a command finds damaged while it goes on: each document is named at once, on stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._exit_code = 0
        self._named: set[str] = set()

    def __bool__(self) -> bool:
        return self._exit_code != 0

    def report(self, error: Inconsistent) -> None:
        """Name a damaged document, once."""
        if error.path not in self._named:
            self._named.add(error.path)
            print_error(error, as_json=self._as_json)
        self._exit_code = error.exit_code

    def end(self) -> None:
        """End the command with the exit code for damage, if there was any."""
        if self._exit_code:
            raise typer.Exit(self._exit_code)


async def print_found(
    store: str | None,
    find: Callable[[StateStore, Damage], AsyncIterator[T]],
    *,
    as_json: bool,
    fields: Callable[[T], Any],
    columns: Sequence[str],
    row: Callable[[T], Sequence[Any]],
    none: str,
) -> None:
    """Print what is found in a store, past what is damaged there, and end with the exit code for damage.

    Args:
        store: the address of the store.
        find: gives the items, and reports what is damaged.
        as_json: whether to print JSON.
        fields: an item as JSON.
        columns: the names of the columns for people.
        row: an item as a row for people.
        none: what to say to people where there is nothing.
    """
    damage = Damage(as_json=as_json)
    async with open_to_look(store, damage.report) as opened_store:
        items = find(opened_store, damage)
        is_found = await print_items(items, as_json=as_json, fields=fields, columns=columns, row=row)
    if not (is_found or damage or as_json):
        say(none)
    damage.end()


def need_command(context: typer.Context) -> None:
    """Print the help, and end, if no command was given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(USAGE)


def opened(url: str | None, *, create: bool = False) -> StateStore:
    """The store that a command works on, with data as stored. Only commands that write may create one."""
    return open_store(url, schema=None, create=create)


def run(command: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the asynchronous part of a command."""
    anyio.run(command)


def confirm(question: str, *, yes: bool) -> None:
    """Ask the user before something is destroyed.

    Raises:
        UsageError: stdin is not a terminal, and ``--yes`` was not given.
        Declined: the answer was not yes.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"{question} Not a terminal: pass --yes to confirm")
    print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Declined("not confirmed; nothing was changed")


def check_file(path: Path) -> None:
    """Raise ``UsageError`` if the path of a file to be read does not name a file."""
    if not path.is_file():
        raise UsageError(f"{str(path)!r} is not a file" if path.exists() else f"there is no file {str(path)!r}")
