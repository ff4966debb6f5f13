"""The command line as a user has it: the installed script in a process of its own, piped or on a terminal."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
import typer.main

from tai_state.cli.program import app, main

from .processes import started

SCRIPT = Path(sys.executable).parent / "tai-state"

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
"""The commands of the program by their names, groups of commands among them."""

_SET_BY_USERS = ("TAI_STATE_STORE", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "PYTHONIOENCODING")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed; on a terminal, all of it in ``out``."""

    code: int
    out: str
    err: str = ""

    def json(self) -> Any:
        """The JSON on stdout, of a command that went well and said nothing else."""
        assert (self.code, self.err) == (0, ""), self
        return json.loads(self.out)

    def error(self, code: int) -> dict[str, Any]:
        """The error that a command with ``--json`` ended with."""
        assert (self.code, self.out) == (code, ""), self
        assert self.err.count("\n") == 1, self.err
        body = json.loads(self.err)
        assert list(body) == ["error"]
        assert {"type", "message"} <= body["error"].keys()
        return body["error"]


class Program:
    """Runs commands in one folder.

    Args:
        folder: the working directory.
        command: the program; by default the installed script.
        environment: variables on top of the ones around, without those that a user may have set.
    """

    def __init__(self, folder: Path, *, command: Sequence[str | Path] = (SCRIPT,), **environment: str) -> None:
        self.folder = folder
        self.command = command
        around = {name: value for name, value in os.environ.items() if name not in _SET_BY_USERS}
        self.environment = {**around, **environment}

    def __call__(self, *arguments: str | os.PathLike[str] | bytes) -> Ended:
        """Run a command to its end, its output piped."""
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=100,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def started(self, *arguments: str, **streams: Any) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """A command that runs, at most until the end of the block; by default its outputs are pipes."""
        return started(
            [*self.command, *arguments],
            cwd=self.folder,
            env=self.environment,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
        )

    def on_terminal(self, *arguments: str, answer: str = "", columns: int = 80) -> Ended:
        """Run a command on a terminal of its own, with this typed into it."""
        leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (24, columns))
        with self.started(*arguments, stdin=follower, stdout=follower, stderr=follower) as process:
            os.close(follower)
            os.write(leader, answer.encode())
            shown = b""
            try:
                while chunk := os.read(leader, 65_536):
                    shown += chunk
            except OSError:
                pass  # Linux says so when nobody has the other end open any more
            finally:
                os.close(leader)
            return Ended(process.wait(), shown.decode().replace("\r\n", "\n"))

    @contextmanager
    def throttled(self, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        """A command that can print a few lines more than were read, and then waits: the process and its stdout."""
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with ours, ours.makefile("rb") as lines, theirs, self.started(*arguments, stdout=theirs) as process:
            theirs.close()
            yield process, lines


@dataclass
class Inside:
    """Runs commands in this process, for what needs many of them. Made by the test from its own fixtures."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Ended:
        """Run a command to its end."""
        with self.monkeypatch.context() as patch:
            for name in _SET_BY_USERS:
                patch.delenv(name, raising=False)
            patch.chdir(self.folder)
            terminating = signal.getsignal(signal.SIGTERM)
            patch.setattr(sys, "argv", ["tai-state", *arguments])
            patch.setattr(logging.getLogger("tai_state"), "propagate", True)  # the program sets it; this puts it back
            with pytest.raises(SystemExit) as ended:
                main()
            signal.signal(signal.SIGTERM, terminating)
        out, err = self.capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out, err)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """What a terminal sends on Ctrl-C."""
    process.send_signal(signal.SIGINT)


MACHINES = ("M-1", "a,b", 'the "big" one', "Zoë/№ 3", "line\nbreak")
"""Ids that a careless reader of CSV, or of paths, would break."""

COLUMNS = ("machine", "when", "status", "level", "who", "note, free")
IMPORT = ("--machine", "machine", "--state", "status,level", "--time", "when", "--by", "who")
"""The options that import what :func:`make_rows` makes."""


def make_rows(count: int) -> list[list[str]]:
    """Rows of a log: quotes, commas, line breaks, non-ASCII, empty cells, repeated rows, times with offsets."""
    offsets = ("Z", "+00:00", "+05:30", "-08:00", "")
    rows: list[list[str]] = []
    for number in range(count):
        if number % 11 == 10:
            rows.append(rows[-1])  # the very same row once more is one more event
            continue
        when = f"2026-03-{number // 1440 % 28 + 1:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00"
        rows.append(
            [
                MACHINES[number * 7 % len(MACHINES)] if number % 3 else f"M-{number % 40}",
                when + offsets[number % len(offsets)],
                ("Läuft", "", "«aus»", 'so-"so"')[number % 4],
                str(number // 2),
                ("ana", "", "ben, the 2nd")[number % 3],
                "" if number % 2 else f"№ {number}\n2nd line",
            ]
        )
    return rows


def csv_text(rows: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS) -> str:
    """Rows as CSV with a header."""
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    return text.getvalue()


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    """Write rows to a file, compressed if its name says so."""
    data = csv_text(rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
