"""The program: its commands, the options they share, and what it ends with."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import anyio
import typer

from tai_state.cli.output import print_error
from tai_state.errors import TaiStateError
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

app = typer.Typer(
    name="tai-state",
    help="Look after stores of machine states: import, inspect, verify, recover, move.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001
    if wanted:
        typer.echo(f"tai-state {version('tai-state')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def opened(url: str | None, *, create: bool = False) -> StateStore:
    """The store that a command works on, its data as stored. Only commands that write may make one."""
    return open_store(url, schema=None, create=create)


def run(command: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a command's asynchronous part."""
    anyio.run(command)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed.

    Raises:
        typer.BadParameter: nobody can be asked, and ``--yes`` was not given.
        typer.Abort: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{question} Nobody can be asked here: add --yes.")
    typer.confirm(question, abort=True, err=True)


def check_file(path: Path) -> None:
    """Raises ``typer.BadParameter`` where a file to be read is none."""
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {str(path)!r}")


def main() -> None:
    """The entry point; never returns."""
    logging.getLogger("tai_state").propagate = False
    as_json = "--json" in sys.argv
    try:
        code = app(standalone_mode=False) or 0
    except TaiStateError as error:
        print_error(error, as_json=as_json)
        code = error.exit_code
    except typer.Abort:
        print_error(RuntimeError("aborted"), as_json=as_json)
        code = INTERRUPTED
    except typer.TyperException as error:
        print_error(_usage(error), as_json=as_json)
        code = USAGE
    except KeyboardInterrupt:
        print_error(RuntimeError("interrupted: run it again to go on"), as_json=as_json)
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the program's last resort: say it, and end with the agreed code
        print_error(error, as_json=as_json)
        code = UNEXPECTED
    sys.exit(code)


class UsageError(Exception):
    """The command line was not understood."""


def _usage(error: Any) -> UsageError:
    return UsageError(f"{error.format_message()} (see tai-state COMMAND --help)")


def _register() -> None:
    """Importing a command module adds its commands, in the order they are listed."""
    from tai_state.cli import demo, inspecting, mending, moving

    _ = demo, inspecting, mending, moving


_register()
