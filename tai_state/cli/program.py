"""The program: its commands, in the order in which the help lists them, and its exit codes."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import Annotated, Any

import typer

from tai_state.cli import (
    demo,
    doctor,
    emulating,
    inspecting,
    locking,
    machines,
    mending,
    moving,
    serving,
    syncing,
    timing,
)
from tai_state.cli.common import (
    INTERRUPTED,
    PIPE_CLOSED,
    UNEXPECTED,
    USAGE,
    Declined,
    Interrupted,
    UsageError,
    need_command,
)
from tai_state.cli.output import OutputError, print_error
from tai_state.errors import TaiStateError

app: typer.Typer = typer.Typer(
    name="tai-state",
    help="Manage stores of machine states: import, inspect, verify, recover, move.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    need_command(context)


for _command in (
    demo.demo,
    inspecting.ls,
    inspecting.show,
    inspecting.history,
    inspecting.diff,
    inspecting.stats,
    mending.verify,
    mending.recover,
    mending.snapshot,
    mending.cleanup,
    moving.import_,
    moving.export,
    moving.restore,
    moving.backup,
    locking.locks,
    locking.unlock,
    syncing.sync,
    syncing.retire,
    syncing.conflicts,
    timing.timers,
    serving.serve,
    doctor.doctor,
    emulating.emulator,
    emulating.indexes,
):
    app.command(_command.__name__.removesuffix("_"))(_command)
app.add_typer(machines.app)


def main() -> None:
    """The entry point. Never returns."""
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
    """Do what Ctrl-C would do, even if Ctrl-C is ignored, as in a command that a shell runs in the background."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def _drop_output() -> None:
    """Drop the output that could not be written, so that it is not written again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare_streams(*, as_json: bool) -> None:
    """Print JSON in UTF-8, and text in the terminal's encoding, escaping the characters that it lacks.

    If stderr is closed, its output is dropped and does not go to stdout.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - stays open as long as the program runs
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8" if as_json else None, errors="backslashreplace")


def _run(*, as_json: bool) -> int:
    """Run the command that the arguments name. Returns the exit code."""
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
    except SystemExit:  # typer exits like this when the reader of the output has closed the pipe
        return PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the last resort: print the error and end with the documented code
        print_error(error, as_json=as_json, expected=False)
        return UNEXPECTED
    if code == INTERRUPTED:  # typer turns a KeyboardInterrupt into this code
        print_error(Interrupted("interrupted; the command can be run again"), as_json=as_json)
    return code


def _usage(error: UsageError | typer.TyperException) -> UsageError:
    """The error; if it is about the arguments, with a pointer to the help."""
    if isinstance(error, UsageError):
        return error
    context: Any = getattr(error, "ctx", None)
    if context is not None and context.parent is None and type(error).__name__ == "NoSuchOption":
        said = f"No such option: {getattr(error, 'option_name', '')}; options follow the command"
        return UsageError(f"{said} (see tai-state COMMAND --help)")
    command = context.command_path if context is not None else "tai-state COMMAND"
    return UsageError(f"{error.format_message().rstrip('.')} (see {command} --help)")
