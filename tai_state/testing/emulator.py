"""Runs the Firestore emulator for the duration of a block.

::

    with running_emulator() as emulator:
        os.environ["FIRESTORE_EMULATOR_HOST"] = emulator.host
        async with open_store(f"firestore://{fresh_project()}") as store:
            ...

An emulator keeps everything in memory, and a project exists as soon as something is written to it. So give each test
a project of its own instead of emptying a shared one.
"""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import msgspec

from tai_state.engines.firestore.engine import EMULATOR
from tai_state.errors import EmulatorNotFound, StoreUnavailable

_LOOPBACK: Final = "127.0.0.1"
_START_SECONDS: Final = 60.0
_ANSWER_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.05
_ATTEMPTS: Final = 3
_LOG_BYTES: Final = 65_536

_GCLOUD_JAR: Final = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
_GCLOUD_MAIN: Final = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
_FIREBASE_JARS: Final = ".cache/firebase/emulators"
_RUNNING: Final = b"is now running"
_PORT_TAKEN: Final = b"Address already in use"

# The shell outlives this process, however this process ends. Then the pipe on the shell's standard input closes, and
# the shell kills Java. If Java ends first, the shell ends with Java's exit code. PR_SET_PDEATHSIG would not do: it
# reacts to the end of the thread that started the child.
_GUARD: Final = """
exec 3<&0
"$@" 3<&- </dev/null &
java=$!
{ read -r _ <&3; kill -9 $java; } 2>/dev/null >&2 &
guard=$!
exec 3<&-
wait $java
code=$?
kill $guard
exit $code
"""


class Emulator(msgspec.Struct, frozen=True):
    """A running emulator.

    Attributes:
        host: its address, like ``127.0.0.1:8080``; the value for ``FIRESTORE_EMULATOR_HOST``.
        process: the process that runs it, in a process group of its own; None if it was already running.
    """

    host: str
    process: subprocess.Popen[bytes] | None = None


def fresh_project() -> str:
    """The id of a project that no other test uses."""
    return f"test-{secrets.token_hex(10)}"


def find_emulator(environment: Mapping[str, str] | None = None) -> list[str]:
    """The command that starts the installed emulator, to be completed with address and port.

    This looks in the gcloud installation (``CLOUDSDK_ROOT_DIR``, or the one of the ``gcloud`` on the PATH), then for
    the newest emulator that firebase-tools downloaded.

    Raises:
        EmulatorNotFound: no emulator is installed, or Java is missing.
    """
    environment = os.environ if environment is None else environment
    path = environment.get("PATH", os.defpath)
    root = environment.get("CLOUDSDK_ROOT_DIR")
    gcloud = shutil.which("gcloud", path=path)
    if root is None and gcloud is not None:
        root = str(Path(gcloud).resolve().parents[1])
    gcloud_jar = None if root is None else Path(root) / _GCLOUD_JAR
    home = Path(environment.get("HOME", "/"))
    firebase_jars = sorted((home / _FIREBASE_JARS).glob("cloud-firestore-emulator-*.jar"), key=_version)
    if gcloud_jar is not None and gcloud_jar.is_file():
        arguments = ["-cp", str(gcloud_jar), _GCLOUD_MAIN, "start"]
    elif firebase_jars:
        arguments = ["-jar", str(firebase_jars[-1])]
    else:
        raise EmulatorNotFound(f"{gcloud_jar or 'gcloud'} or a jar in {home / _FIREBASE_JARS}")
    java = shutil.which("java", path=path)
    if java is None:
        raise EmulatorNotFound("java on the PATH")
    # So that the emulator's messages are in English, whatever the language of the machine.
    return [java, "-Duser.language=en", *arguments]


@contextmanager
def running_emulator() -> Generator[Emulator]:
    """The emulator whose address is in the environment; without one, a new emulator that runs during the block.

    Raises:
        EmulatorNotFound: no emulator is installed.
        StoreUnavailable: the new emulator does not start, or the one in the environment does not answer.
    """
    given = os.environ.get(EMULATOR)
    if given:
        if not answers(given):
            raise StoreUnavailable(
                "emulator", "UNREACHABLE", f"nothing answers at {EMULATOR}={given}: start it, or unset the variable"
            )
        yield Emulator(given)
    else:
        with started_emulator() as emulator:
            yield emulator


@contextmanager
def started_emulator(*, port: int | None = None, rules: Path | None = None) -> Generator[Emulator]:
    """A new emulator that runs during the block, whatever the environment says.

    It listens only on the loopback address. It ends with the block, or with this process, however the process ends.
    (A child that was forked without exec keeps the emulator running until the child ends.)

    Args:
        port: the port to listen on; None: a free one.
        rules: a file of security rules; None: everything is allowed.

    Raises:
        EmulatorNotFound: no emulator is installed.
        StoreUnavailable: the emulator does not start.
    """
    with tempfile.TemporaryFile() as log:
        process, host = _start(find_emulator(), port, rules, log)
        try:
            yield Emulator(host, process)
        finally:
            _end(process)


def answers(host: str, seconds: float = _ANSWER_SECONDS) -> bool:
    """Whether an emulator at this address answers a request within this many seconds."""
    connection = http.client.HTTPConnection(host, timeout=seconds)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _start(
    command: list[str], port: int | None, rules: Path | None, log: IO[bytes]
) -> tuple[subprocess.Popen[bytes], str]:
    """Start an emulator. Returns its process and address.

    Another process may take a free port before the emulator does; then another port is tried.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        host = f"{_LOOPBACK}:{_free_port() if port is None else port}"
        process = _launch(command, host, rules, log)
        try:
            _wait_until_up(process, host, log)
        except StoreUnavailable as error:
            _end(process)
            if port is not None or error.code != "PORT_TAKEN" or attempt == _ATTEMPTS:
                raise
        except BaseException:
            _end(process)
            raise
        else:
            return process, host
    raise AssertionError


def _launch(command: list[str], host: str, rules: Path | None, log: IO[bytes]) -> subprocess.Popen[bytes]:
    name, _, port = host.rpartition(":")
    arguments = [*command, "--host", name, "--port", port, *(() if rules is None else ("--rules", str(rules)))]
    log.seek(log.truncate(0))
    # In a session of its own, it is not reached by Ctrl-C, and all its processes can be killed at once.
    return subprocess.Popen(  # noqa: S603 - the command was found on this machine
        ["/bin/sh", "-c", _GUARD, "sh", *arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _wait_until_up(process: subprocess.Popen[bytes], host: str, log: IO[bytes]) -> None:
    """Wait until this process reports that it runs, and answers: another program may be answering at the port.

    Raises:
        StoreUnavailable: the emulator ended, or was not ready in time.
    """
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(_POLL_SECONDS)
            said = _log_text(log)
            raise StoreUnavailable(
                "emulator",
                "PORT_TAKEN" if _PORT_TAKEN in said else "ENDED",
                f"at {host}, with exit code {code}: {_tail(said)}",
            )
        if _RUNNING in _log_text(log) and answers(host):
            return
        if time.monotonic() > deadline:
            what = f"not ready after {_START_SECONDS:g} s: {_tail(_log_text(log))}"
            raise StoreUnavailable("emulator", "NO_ANSWER", what)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the shell kill Java, and wait until Java is gone and its port is free. Then kill whatever is left."""
    if process.stdin is not None:
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_ANSWER_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _log_text(log: IO[bytes]) -> bytes:
    """The beginning of the log. The file's offset, at which Java writes, is not moved."""
    return os.pread(log.fileno(), _LOG_BYTES, 0)


def _tail(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line and not line.startswith("\tat ")]
    return " | ".join(lines[-3:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _version(jar: Path) -> list[int]:
    """The numbers in a jar's name, so that 1.19.10 comes after 1.19.9."""
    name = jar.stem
    return [int(part) for part in "".join(c if c.isdigit() else " " for c in name).split()]
