"""What the commands share: options, confirmation, and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import anyio
import typer

from tai_state.store.opening import open_store
from tai_state.store.store import StateStore

USAGE = 2
INCONSISTENT = 4
UNEXPECTED = 70
INTERRUPTED = 130
PIPE_CLOSED = 141

StoreOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="The store's address; else TAI_STATE_STORE, else ./tai-state.db."),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
GovernorArgument: TypeAlias = Annotated[str, typer.Argument(metavar="GOVERNOR", help="The governor's id.")]
StateArgument: TypeAlias = Annotated[str, typer.Argument(metavar="STATE", help="The state's id.")]
AppOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--app", metavar="MODULE:ATTRIBUTE", help="The reducers by action, for events that need them."),
]


class UsageError(Exception):
    """The command line was not understood, or names a file that cannot be used."""


class Interrupted(Exception):
    """Somebody pressed Ctrl-C, or asked the program to end."""


class Declined(Exception):
    """Somebody was asked, and did not say yes."""


def opened(url: str | None, *, create: bool = False) -> StateStore:
    """The store that a command works on, its data as stored. Only commands that write may make one."""
    return open_store(url, schema=None, create=create)


def run(command: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a command's asynchronous part."""
    anyio.run(command)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed.

    Raises:
        UsageError: nobody can be asked, and ``--yes`` was not given.
        Declined: the answer was not yes.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody can be asked here: add --yes")
    print(f"{question} [y/N]: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Declined("nothing was done")


def check_file(path: Path) -> None:
    """Raises ``UsageError`` where a file to be read is none."""
    if not path.is_file():
        raise UsageError(f"{str(path)!r} is no file" if path.exists() else f"there is no file {str(path)!r}")
