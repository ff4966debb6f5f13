"""The program: its commands, the options they share, and what it ends with."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TypeAlias

import anyio
import typer

from tai_state.cli.output import OutputError, print_error
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

app: typer.Typer = typer.Typer(
    name="tai-state",
    help="Look after stores of machine states: import, inspect, verify, recover, move.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class UsageError(Exception):
    """The command line was not understood, or names a file that cannot be used."""


class Interrupted(Exception):
    """Somebody pressed Ctrl-C, or asked the program to end."""


class Declined(Exception):
    """Somebody was asked, and did not say yes."""


def _show_version(wanted: bool) -> None:  # noqa: FBT001
    if wanted:
        typer.echo(f"tai-state {version('tai-state')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(USAGE)


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


def main() -> None:
    """The entry point; never returns."""
    logging.getLogger("tai_state").propagate = False
    as_json = "--json" in sys.argv
    _prepare_streams(as_json=as_json)
    signal.signal(signal.SIGTERM, _end)
    try:
        code = _run(as_json=as_json)
    except BrokenPipeError:
        _drop_output()
        code = PIPE_CLOSED
    sys.exit(code)


def _end(_: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does now; also where it is ignored, as a shell has it for what runs in the background."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def _drop_output() -> None:
    """What could not be written is not tried again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare_streams(*, as_json: bool) -> None:
    """JSON is always UTF-8; to people, what their terminal's encoding lacks is shown escaped.

    Where stderr is closed, what goes there is dropped, and does not go to stdout.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - as long as the program runs
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8" if as_json else None, errors="backslashreplace")


def _run(*, as_json: bool) -> int:
    """Run the command that the arguments name; the code to end with."""
    try:
        if sys.stdout is None:
            raise OutputError("the output cannot be written: stdout is closed")
        code: int = app(standalone_mode=False) or 0
    except TaiStateError as error:
        print_error(error, as_json=as_json)
        return error.exit_code
    except (UsageError, typer.TyperException) as error:
        print_error(_usage(error), as_json=as_json)
        return USAGE
    except OutputError as error:
        print_error(error, as_json=as_json)
        if sys.stdout is not None:
            _drop_output()
        return USAGE
    except Declined as error:
        print_error(error, as_json=as_json)
        return INTERRUPTED
    except SystemExit:  # typer's own answer when nobody reads the output any more
        return PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the program's last resort: say it, and end with the agreed code
        print_error(error, as_json=as_json, expected=False)
        return UNEXPECTED
    if code == INTERRUPTED:  # typer makes it of a KeyboardInterrupt
        print_error(Interrupted("interrupted; it can be run again"), as_json=as_json)
    return code


def _usage(error: UsageError | typer.TyperException) -> UsageError:
    """The error with the way to the help, where it is about the arguments as such."""
    if isinstance(error, UsageError):
        return error
    context: Any = getattr(error, "ctx", None)
    if context is not None and context.parent is None and type(error).__name__ == "NoSuchOption":
        said = f"No such option: {getattr(error, 'option_name', '')}; options follow the command"
        return UsageError(f"{said} (see tai-state COMMAND --help)")
    command = context.command_path if context is not None else "tai-state COMMAND"
    return UsageError(f"{error.format_message().rstrip('.')} (see {command} --help)")


def _register() -> None:
    """Importing a command module adds its commands, in the order they are listed."""
    from tai_state.cli import demo, doctor, emulating, inspecting, locking, mending, moving, syncing  # noqa: PLC0415 - they import this one

    _ = demo, inspecting, mending, moving, locking, syncing, doctor, emulating


_register()
