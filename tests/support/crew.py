"""Several real processes that share a store, and what they said, in one queue."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from tai_state import errors

WORKER = Path(__file__).with_name("lock_worker.py")
FOLDER = Path(errors.__file__).parents[1]
"""Where the package under test was imported from; the processes import the same."""

HANG_SECONDS = 60.0
"""Longer than anything here takes: who is silent for so long hangs."""


class Said(NamedTuple):
    """Words of a process: the first says what happened."""

    name: str
    what: str
    words: tuple[Any, ...]


class Crew:
    """Starts processes, tells them what to do, hears what they say; at the end nothing of them is left.

    Args:
        url: of the store.
        environment: variables for all of them, on top of the ones around.
    """

    def __init__(self, url: str, environment: Mapping[str, str]) -> None:
        self._url = url
        self._environment = {**os.environ, **environment, "PYTHONPATH": str(FOLDER)}
        self._members: dict[str, subprocess.Popen[str]] = {}
        self._listeners: dict[str, threading.Thread] = {}
        self._said: queue.Queue[Said] = queue.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for name in tuple(self._members):
            self.kill(name)

    def start(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """Start another one; it says "ready"."""
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(WORKER), self._url, name],
            env={**self._environment, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._members[name] = process
        self._listeners[name] = threading.Thread(target=self._listen, args=(name, process), daemon=True)
        self._listeners[name].start()

    def tell(self, name: str, **job: Any) -> None:
        """Give a job, or the line that a job waits for."""
        stdin = self._members[name].stdin
        assert stdin is not None
        stdin.write(json.dumps(job) + "\n")

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal."""
        self._members[name].send_signal(number)

    def hear(self, seconds: float = HANG_SECONDS) -> Said | None:
        """What is said next; None where nothing is for so long."""
        with suppress(queue.Empty):
            return self._said.get(timeout=seconds)
        return None

    def hear_all(self, what: str, count: int) -> list[Said]:
        """So many of these words, from whomever; everything said before them is dropped."""
        found: list[Said] = []
        while len(found) < count:
            said = self.hear()
            assert said is not None, f"nobody says {what!r} any more"
            if said.what == what:
                found.append(said)
        return found

    def dismiss(self, name: str) -> int:
        """Close its stdin and wait for its end: its exit code."""
        process = self._members[name]
        assert process.stdin is not None
        process.stdin.close()
        code = process.wait(HANG_SECONDS)
        self.kill(name)
        return code

    def kill(self, name: str) -> None:
        """SIGKILL, whatever it does; also where it is stopped, or over."""
        process = self._members.pop(name)
        process.kill()
        process.wait()
        self._listeners.pop(name).join()
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        for left in Path("/dev/shm").glob(f"*faketime_s*_{process.pid}"):  # what libfaketime leaves of a killed process
            left.unlink()

    def _listen(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                what, *words = json.loads(line)
                self._said.put(Said(name, what, tuple(words)))
