"""The launcher of the emulator: with real processes, and what it does where there is nothing to launch."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tai_state.engines.firestore.engine import EMULATOR
from tai_state.errors import EmulatorNotFound, StoreUnavailable
from tai_state.testing import emulator as launcher
from tai_state.testing.emulator import (
    answers,
    find_emulator,
    fresh_project,
    running_emulator,
    started_emulator,
)

from ..support.processes import started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tai_state.testing.emulator import Emulator

HANG_SECONDS = 60

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes as Linux shows them")

PARENT = """
import sys
from tai_state.testing.emulator import started_emulator
with started_emulator() as emulator:
    print(emulator.host, emulator.process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """No emulator's address in the environment."""
    monkeypatch.delenv(EMULATOR, raising=False)


@pytest.fixture
def taken() -> Iterator[int]:
    """A loopback port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _connected(host: str) -> socket.socket:
    name, _, port = host.rpartition(":")
    return socket.create_connection((name, int(port)), timeout=HANG_SECONDS)


def _wait_until_closed(connection: socket.socket) -> None:
    """Until the process at the other end is gone; a test that waits in vain fails after a minute."""
    try:
        assert connection.recv(1) == b""
    except ConnectionResetError:
        pass
    finally:
        connection.close()


def _members(group: int) -> dict[int, str]:
    """The processes of a group that still run, by id, and their names."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, its_group = rest.split()[:3]
        if int(its_group) == group and state != "Z":
            found[int(folder.name)] = name
    return found


def _wait_until_gone(group: int) -> None:
    """Until no process of the group runs; a test that waits in vain fails after a minute."""
    for pid in _members(group):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended, _, _ = select.select([handle], [], [], HANG_SECONDS)
        os.close(handle)
        assert ended, f"process {pid} is left"


def _fake(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@on_linux
@pytest.mark.usefixtures("unset", "firestore_emulator")
def test_an_emulator_answers_for_as_long_as_the_block_runs(monkeypatch: pytest.MonkeyPatch):
    """It listens on the loopback address, answers requests, and is gone with its Java after the block."""
    monkeypatch.delenv(EMULATOR, raising=False)
    with running_emulator() as emulator:
        assert re.fullmatch(r"127\.0\.0\.1:\d+", emulator.host)
        assert answers(emulator.host)
        assert emulator.process is not None
        assert "java" in _members(emulator.process.pid).values()
        connection = _connected(emulator.host)
    _wait_until_closed(connection)
    assert not answers(emulator.host)
    assert "java" not in _members(emulator.process.pid).values()


@pytest.mark.usefixtures("firestore_emulator")
def test_an_error_in_the_block_ends_it(monkeypatch: pytest.MonkeyPatch):
    """The block's error comes out as it is, and the emulator is gone."""
    monkeypatch.delenv(EMULATOR)
    connections = []
    with pytest.raises(KeyboardInterrupt), running_emulator() as emulator:  # noqa: PT012 - raised in the block
        connections.append(_connected(emulator.host))
        raise KeyboardInterrupt
    _wait_until_closed(connections[0])


@on_linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("firestore_emulator")
def test_java_goes_with_the_process_that_started_it(number: signal.Signals):
    """Also when that process is killed and can clean nothing up, neither Java nor its shell is left."""
    command = [sys.executable, "-c", PARENT]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with started(command, **streams) as parent:
        assert parent.stdout is not None
        host, group = parent.stdout.readline().decode().split()
        connection = _connected(host)
        parent.send_signal(number)
        parent.wait(HANG_SECONDS)
    _wait_until_closed(connection)
    _wait_until_gone(int(group))


@pytest.mark.usefixtures("firestore_emulator")
def test_a_taken_port_is_an_error(taken: int):
    """Where somebody else listens on the port asked for, the error says so, and nothing is left running."""
    with pytest.raises(StoreUnavailable) as caught, started_emulator(port=taken):
        pass
    assert caught.value.code == "PORT_TAKEN"
    assert str(taken) in str(caught.value)


@pytest.mark.usefixtures("firestore_emulator")
def test_a_port_that_another_took_meanwhile_is_left_to_it(monkeypatch: pytest.MonkeyPatch, taken: int):
    """Where the free port found is taken before the emulator has it, it takes another one."""
    monkeypatch.delenv(EMULATOR)
    free = launcher._free_port()
    ports = iter([taken, free])
    monkeypatch.setattr(launcher, "_free_port", lambda: next(ports))
    with running_emulator() as emulator:
        assert emulator.host == f"127.0.0.1:{free}"


@pytest.mark.usefixtures("firestore_emulator")
def test_it_can_be_started_again_at_its_port(monkeypatch: pytest.MonkeyPatch):
    """When the block is left the port is free, so that a client can meet the next emulator at the same address."""
    monkeypatch.delenv(EMULATOR)
    with running_emulator() as first:
        connection = _connected(first.host)
    with started_emulator(port=int(first.host.rpartition(":")[2])) as second:
        assert second.host == first.host
        assert answers(second.host)
    connection.close()


def test_another_emulator_at_the_port_is_not_taken_for_ours(firestore_emulator: Emulator):
    """Answers at the port asked for prove nothing: they may be another emulator's."""
    port = int(firestore_emulator.host.rpartition(":")[2])
    with pytest.raises(StoreUnavailable, match="PORT_TAKEN"), started_emulator(port=port):
        pass


def test_an_address_that_is_given_is_used(firestore_emulator: Emulator):
    """With FIRESTORE_EMULATOR_HOST set nothing is started, and what runs there goes on after the block."""
    with running_emulator() as given:
        assert given.host == firestore_emulator.host
        assert given.process is None
    assert answers(firestore_emulator.host)


def test_an_address_where_nothing_answers_is_an_error(monkeypatch: pytest.MonkeyPatch):
    """It is not replaced by an emulator of one's own: the tests would run against another one than asked."""
    monkeypatch.setenv(EMULATOR, f"127.0.0.1:{launcher._free_port()}")
    with pytest.raises(StoreUnavailable, match=EMULATOR), running_emulator():
        pass


@pytest.mark.usefixtures("unset")
def test_what_ends_at_once_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A Java that cannot run it is reported with what it said last, not waited for."""
    _fake(tmp_path / "bin/java", "#!/bin/sh\necho 'class file version 61.0'; exit 7\n")
    _fake(tmp_path / launcher._GCLOUD_JAR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CLOUDSDK_ROOT_DIR", str(tmp_path))
    with (
        pytest.raises(StoreUnavailable, match=r"ENDED.*with exit code 7: class file version 61\.0"),
        running_emulator(),
    ):
        pass


@on_linux
@pytest.mark.usefixtures("unset")
def test_what_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A program that starts and says nothing is ended after a bounded time."""
    _fake(tmp_path / "bin/java", "#!/bin/sh\nexec sleep 600\n")
    _fake(tmp_path / launcher._GCLOUD_JAR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CLOUDSDK_ROOT_DIR", str(tmp_path))
    monkeypatch.setattr(launcher, "_START_SECONDS", 0.0)
    launched = []
    launch = launcher._launch
    monkeypatch.setattr(launcher, "_launch", lambda *args: launched.append(launch(*args)) or launched[0])
    with pytest.raises(StoreUnavailable, match="NO_ANSWER"), running_emulator():
        pass
    [process] = launched
    _wait_until_gone(process.pid)


def test_gcloud_comes_first_and_the_newest_of_firebase_after_it(tmp_path: Path):
    """Of several installations the one of gcloud is used, else the newest that firebase-tools fetched."""
    java = _fake(tmp_path / "bin/java")
    gcloud_jar = _fake(tmp_path / "sdk" / launcher._GCLOUD_JAR)
    _fake(tmp_path / "sdk/bin/gcloud")
    (tmp_path / "bin/gcloud").symlink_to(tmp_path / "sdk/bin/gcloud")
    jars = tmp_path / "home" / launcher._FIREBASE_JARS
    _fake(jars / "cloud-firestore-emulator-v1.19.9.jar")
    newest = _fake(jars / "cloud-firestore-emulator-v1.19.10.jar")
    environment = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path / "home")}
    found = find_emulator(environment)
    assert found[0] == str(java)
    assert str(gcloud_jar) in found
    gcloud_jar.unlink()
    assert find_emulator(environment)[-2:] == ["-jar", str(newest)]


@pytest.mark.parametrize("java", [True, False])
def test_where_nothing_is_installed_the_error_says_what_to_install(tmp_path: Path, *, java: bool):
    """Without a jar, and with one but without Java, the error names what is missing and how to get it."""
    if java:
        _fake(tmp_path / "java")
    else:
        _fake(tmp_path / launcher._GCLOUD_JAR)
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "CLOUDSDK_ROOT_DIR": str(tmp_path)}
    with pytest.raises(EmulatorNotFound) as caught:
        find_emulator(environment)
    assert "gcloud components install cloud-firestore-emulator" in str(caught.value)
    assert EMULATOR in str(caught.value)
    assert ("java on the PATH" in str(caught.value)) is not java


def test_projects_are_fresh():
    """Each id is new, and one that Google Cloud would accept."""
    projects = {fresh_project() for _ in range(100)}
    assert len(projects) == 100
    assert all(re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", each) for each in projects)
