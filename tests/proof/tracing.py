"""Runs of the workload under strace: each in its own process, with faults planned by system call and count."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import tai_state

WRITING = (
    "openat", "open", "creat", "write", "writev", "pwrite64", "pwritev", "pwritev2", "fdatasync", "fsync",
    "sync_file_range", "ftruncate", "truncate", "fallocate", "unlink", "unlinkat", "rename", "renameat",
    "renameat2", "link", "linkat", "mkdir", "mkdirat", "rmdir", "copy_file_range", "sendfile",
)  # fmt: skip
"""Every call by which a program can change a file or a folder, whether SQLite uses it or not."""

SUFFIXES = ("", "-wal", "-shm", "-journal")
RUN_SECONDS_MAX = 60.0
_STARTED = re.compile(r"^(?P<tid>\d+) +(?P<call>\w+)\((?P<rest>.*)$")
_PATH = re.compile(r"<(?P<fd>[^>]*)>|\"(?P<name>[^\"]*)\"")


class TracingRefused(Exception):
    """strace is missing, or the kernel lets nobody trace."""


@dataclass(frozen=True)
class Fault:
    """What strace does to the n-th call of a kind on one of the store's files.

    Attributes:
        call: the system call.
        action: as strace writes it: ``signal=KILL`` or ``error=EIO``.
        when: as strace writes it: ``3``, ``3..5`` or ``3+``.
        files: suffixes of the files concerned, ``/`` standing for their folder; None: whatever the call touches.
    """

    call: str
    action: str
    when: str
    files: tuple[str, ...] | None = ("", "-wal", "-shm", "-journal", "/")


@dataclass(frozen=True)
class Call:
    """One system call of the log on one of the store's files.

    Attributes:
        thread: 0 for the first thread that made such a call, and so on.
        name: the system call.
        file: suffix of the file, ``/`` for the folder.
        changes: it can change what is on the disk; opening what is there already cannot.
        injected: strace made it fail.
    """

    thread: int
    name: str
    file: str
    changes: bool = True
    injected: bool = False


@dataclass(frozen=True)
class Run:
    """What became of one run of the workload.

    Attributes:
        lines: what it said, in order.
        killed: it was ended by SIGKILL.
        code: its exit code otherwise.
        log: the text that strace wrote; empty without strace.
        hung: it had to be ended from outside.
    """

    lines: tuple[str, ...]
    killed: bool
    code: int
    log: str = ""
    hung: bool = False

    def calls(self, store: Path) -> list[Call]:
        """The traced calls on the store's files, in the order in which they began."""
        threads: dict[str, int] = {}
        opened: set[str] = set()
        found = []
        for line in self.log.splitlines():
            match = _STARTED.match(line)
            file = match and _file(match["rest"], store)
            if match and file is not None:
                thread = threads.setdefault(match["tid"], len(threads))
                changes = match["call"] != "openat" or ("O_CREAT" in line and file not in opened)
                found.append(Call(thread, match["call"], file, changes, "(INJECTED)" in line))
                opened.add(file)
        return found

    def injected(self) -> int:
        """How many calls strace made fail."""
        return self.log.count("(INJECTED)")


def _file(arguments: str, store: Path) -> str | None:
    """The suffix of the store's file that a call names, if it names one."""
    for match in _PATH.finditer(arguments):
        path = (match["fd"] or match["name"] or "").removesuffix(" (deleted)")
        if path == str(store.parent):
            return "/"
        if path.startswith(str(store)) and path[len(str(store)) :] in SUFFIXES:
            return path[len(str(store)) :]
    return None


class Workloads:
    """A process that has the library loaded and forks one child for each run; strace joins the child.

    The fork saves loading the library for each run; the child opens the store by itself, and nothing that it
    does before the traced part touches the store. The process ends when its input does.
    """

    def __init__(self) -> None:
        here = str(Path(__file__).parent)
        program = f"import sys; sys.path.insert(0, {here!r}); import workload; workload.serve()"
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._input = process.stdin
        self._output = process.stdout

    def run(self, job: dict[str, Any], tracer: list[str] | None = None) -> Run:
        """One run of the workload.

        Args:
            job: what the workload is to do.
            tracer: arguments for strace; None: untraced.
        """
        self._say(job)
        pid = int(self._hear().split()[1])
        with tempfile.TemporaryDirectory(prefix="tai-state-trace-") as folder:
            log = Path(folder) / "log"
            strace = None if tracer is None else _attach(pid, log, tracer)
            self._say("go")
            lines, hung = self._listen(pid)
            if strace is not None:
                strace.communicate()
            status = int(lines.pop().split()[1])
            text = log.read_text(errors="replace") if tracer is not None else ""
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        return Run(tuple(lines), killed, os.waitstatus_to_exitcode(status), text, hung)

    def _listen(self, pid: int) -> tuple[list[str], bool]:
        """Everything up to the line about its end; a run that takes too long is ended."""
        lines: list[str] = []
        hung = False
        with Alarm(pid) as alarm:
            while not lines or not lines[-1].startswith("exit "):
                lines.append(self._hear())
            hung = alarm.rung
        return lines, hung

    def _say(self, what: object) -> None:
        self._input.write(json.dumps(what).encode() + b"\n")
        self._input.flush()

    def _hear(self) -> str:
        line = self._output.readline()
        if not line:
            raise RuntimeError("the workload's process has ended")
        return line.decode().rstrip("\n")


class Alarm:
    """Kills a process that does not end in time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.rung = False

    def __enter__(self) -> Self:
        self._old = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, RUN_SECONDS_MAX)
        return self

    def __exit__(self, *exc: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._old)

    def _ring(self, *_: object) -> None:
        self.rung = True
        os.kill(self._pid, signal.SIGKILL)


def environment() -> dict[str, str]:
    """This process's environment, with the checkout on the path where the library was imported from one."""
    parent = Path(tai_state.__file__).resolve().parent.parent
    if (parent / "pyproject.toml").exists():
        return {**os.environ, "PYTHONPATH": str(parent)}
    return dict(os.environ)


def arguments(store: Path, fault: Fault | None, calls: tuple[str, ...] = WRITING) -> list[str]:
    """The arguments of strace for a run with one fault (or none), seeing the calls on the store's files."""
    files = fault.files if fault is not None else (*SUFFIXES, "/")
    result = ["-s", "0", "-e", "trace=" + ",".join(f"?{call}" for call in calls)]
    for file in files or ():
        result += ["-P", str(store.parent) if file == "/" else f"{store}{file}"]
    if fault is not None:
        result += ["-e", f"inject={fault.call}:{fault.action}:when={fault.when}"]
    return result


def require_strace() -> None:
    """Make sure that tracing works here.

    Raises:
        TracingRefused: it does not; the message says why.
    """
    if shutil.which("strace") is None:
        raise TracingRefused("strace is not installed")
    probe = ["strace", "-o", os.devnull, "-e", "trace=none", sys.executable, "-c", ""]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TracingRefused(f"strace cannot trace here: {done.stderr.strip()[:200]}")


def _attach(pid: int, log: Path, tracer: list[str]) -> subprocess.Popen[bytes]:
    """strace, once it has taken hold of the process."""
    command = ["strace", "-f", "-y", "-o", str(log), "-p", str(pid), *tracer]
    strace = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = strace.stderr.readline().decode(errors="replace")
    if "attached" not in said:
        os.kill(pid, signal.SIGKILL)
        said += strace.communicate()[1].decode(errors="replace")
        raise TracingRefused(f"strace cannot join a process here: {said.strip()}")
    return strace
