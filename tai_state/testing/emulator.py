"""The Firestore emulator, started for as long as a block runs.

::

    with running_emulator() as emulator:
        os.environ["FIRESTORE_EMULATOR_HOST"] = emulator.host
        async with open_store(f"firestore://{fresh_project()}") as store:
            ...

An emulator keeps everything in memory, and a project comes into being when something is written to it: give each
test a project of its own instead of emptying one.
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

# The shell outlives this process, however that ends: the pipe on its standard input then closes, and Java is
# killed. It ends when Java does, with Java's code. PR_SET_PDEATHSIG would ask for the death of a thread instead.
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
    """An emulator that answers.

    Attributes:
        host: its address, like ``127.0.0.1:8080``: what ``FIRESTORE_EMULATOR_HOST`` is to be.
        process: runs it, in a process group of its own; None where somebody else started it.
    """

    host: str
    process: subprocess.Popen[bytes] | None = None


def fresh_project() -> str:
    """The id of a project that no other test uses."""
    return f"test-{secrets.token_hex(10)}"


def find_emulator(environment: Mapping[str, str] | None = None) -> list[str]:
    """The command that starts the installed emulator; address and port follow.

    Looks below the installation of gcloud (``CLOUDSDK_ROOT_DIR``, else where ``gcloud`` on the path leads), then
    for the newest one that firebase-tools fetched.

    Raises:
        EmulatorNotFound: nothing is installed, or Java is missing.
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
        raise EmulatorNotFound(f"{gcloud_jar or 'gcloud'}, and no jar in {home / _FIREBASE_JARS}")
    java = shutil.which("java", path=path)
    if java is None:
        raise EmulatorNotFound("java on the PATH")
    # The emulator's messages are English only, whatever the machine's language.
    return [java, "-Duser.language=en", *arguments]


@contextmanager
def running_emulator() -> Generator[Emulator]:
    """The emulator whose address is given in the environment, else a new one for as long as the block runs.

    Raises:
        EmulatorNotFound: none is installed.
        StoreUnavailable: it does not start, or the one in the environment does not answer.
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
    """A new emulator for as long as the block runs, whatever the environment says.

    It listens on the loopback address only, and ends with the block or with this process, however that ends. (A
    child forked without exec keeps it up as long as the child lives.)

    Args:
        port: where it listens; without one, on a free port.
        rules: a file of security rules; without one, all is allowed.

    Raises:
        EmulatorNotFound: none is installed.
        StoreUnavailable: it does not start.
    """
    with tempfile.TemporaryFile() as log:
        process, host = _started(find_emulator(), port, rules, log)
        try:
            yield Emulator(host, process)
        finally:
            _end(process)


def answers(host: str, seconds: float = _ANSWER_SECONDS) -> bool:
    """Whether an emulator at this address answers a request within so many seconds."""
    connection = http.client.HTTPConnection(host, timeout=seconds)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _started(
    command: list[str], port: int | None, rules: Path | None, log: IO[bytes]
) -> tuple[subprocess.Popen[bytes], str]:
    """A started emulator and its address. Between finding a free port and taking it, another may have taken it."""
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
    # In a session of its own a Ctrl-C does not reach it, and all of it can be ended at once.
    return subprocess.Popen(  # noqa: S603 - the command is what was found on this machine
        ["/bin/sh", "-c", _GUARD, "sh", *arguments],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _wait_until_up(process: subprocess.Popen[bytes], host: str, log: IO[bytes]) -> None:
    """Wait until this process says that it runs (somebody else may answer at the port), and answers.

    Raises:
        StoreUnavailable: it ended, or was not up in time.
    """
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(_POLL_SECONDS)
            said = _said(log)
            raise StoreUnavailable(
                "emulator", "PORT_TAKEN" if _PORT_TAKEN in said else "ENDED", f"at {host} with {code}: {_tail(said)}"
            )
        if _RUNNING in _said(log) and answers(host):
            return
        if time.monotonic() > deadline:
            raise StoreUnavailable("emulator", "NO_ANSWER", f"not up after {_START_SECONDS:g} s: {_tail(_said(log))}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the guard kill Java and wait until it is gone, its port free again; then kill what may be left."""
    if process.stdin is not None:
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_ANSWER_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _said(log: IO[bytes]) -> bytes:
    """The beginning of the log; the file's offset, which Java writes at, stays where it is."""
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
