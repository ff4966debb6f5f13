"""``tai-state serve`` in a process of its own, asked by curl."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from tai_state import ChangeMetadata, open_store
from tai_state.machines import Event, ready

from ..support.program import Ended, Program

APP = """\
from tai_state.machines import ready

MACHINES = [ready.COORDINATOR, ready.SYSTEM]
ONE = ready.COORDINATOR
NONE = 7
"""

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


async def fill(url: str) -> None:
    """A coordinator that computes."""
    async with open_store(url, metadata=ChangeMetadata("tester", "")) as store:
        node = store.machine("cluster", "rack 1/node", ready.COORDINATOR)
        await node.initialize(initial=ready.CoordinatorState.Ready)
        await node.transition_to(ready.CoordinatorState.Computing, Event("Inference request received"))


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program in a folder with a store and an application."""
    (tmp_path / "nodes.py").write_text(APP)
    anyio.run(fill, f"sqlite:///{tmp_path}/tai-state.db")
    return Program(tmp_path)


@contextmanager
def serving(program: Program, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server that has told its address."""
    with program.started("serve", "--app", "nodes:MACHINES", "--port", "0", *options) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip(), process


def curl(*arguments: str) -> Ended:
    """What curl gets, its output with the headers if they are asked for."""
    done = subprocess.run(["curl", "-sS", "--max-time", "60", *arguments], capture_output=True, text=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


@needs_curl
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_a_server_answers_curl_and_ends_when_told_to(program: Program, number: signal.Signals) -> None:
    """The server prints its address, answers there with JSON and problems, and ends with 0 on either signal."""
    with serving(program) as (address, process):
        assert address.startswith("http://127.0.0.1:")
        state = curl(f"{address}machines/cluster/rack%201%2Fnode/state").json()
        assert (state["state"], state["epoch"], len(state["recent_transitions"])) == ("Computing", 0, 2)
        page = curl("-i", "-H", "Accept: text/html", f"{address}machines").out
        assert page.startswith("HTTP/1.1 200")
        assert "rack 1/node" in page
        assert "\nserver:" not in page.lower()
        refused = curl("-i", "-X", "DELETE", f"{address}machines").out
        assert refused.startswith("HTTP/1.1 405")
        assert "application/problem+json" in refused
        assert curl("-i", "-H", "Host: evil.example", address).out.startswith("HTTP/1.1 400")
        assert curl("-o", "/dev/null", "-w", "%{http_code}", "-L", address).out == "200"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, b"", b"")


def test_the_address_as_json(program: Program) -> None:
    """With ``--json`` the address is a JSON object, also while a client holds its connection open."""
    with serving(program, "--json") as (line, process):
        address = json.loads(line)["address"]
        port = int(address.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("code", "error", "options"),
    [
        (1, "StoreNotFound", ["--app", "nodes:ONE", "--store", "sqlite:///no.db"]),
        (2, "UsageError", ["--app", "nodes:NONE"]),
        (2, "UsageError", ["--app", "nodes"]),
        (2, "UsageError", ["--app", "nodes:ONE", "--host", "no.such.host.invalid"]),
        (2, "UsageError", []),
    ],
)
def test_what_cannot_be_served(program: Program, code: int, error: str, options: list[str]) -> None:
    """A store that is not there, no definition and an address that is not ours end the command before it serves."""
    assert program("serve", "--json", *options).error(code)["type"] == error
    assert not (program.folder / "no.db").exists()


def test_a_port_that_is_taken(program: Program) -> None:
    """A port at which another program listens is named, and how to get another one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = program("serve", "--json", "--app", "nodes:ONE", "--port", str(port)).error(2)
        assert f"port {port}: the port is in use; `--port 0` takes a free one" in failed["message"]


def test_without_the_extra_its_name_is_told(program: Program) -> None:
    """Without its libraries the endpoint cannot be imported, and says which extra has them; so does the command."""
    without = "import sys; sys.modules['starlette'] = None; sys.modules['starlette.applications'] = None; "
    done = subprocess.run(
        [sys.executable, "-c", f"{without}import tai_state.web"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'pip install "tai-state[web]"' in done.stderr
    main = f"{without}from tai_state.cli import main; main()"
    bare = Program(program.folder, command=(sys.executable, "-c", main))
    assert "tai-state[web]" in bare("serve", "--json", "--app", "nodes:ONE").error(2)["message"]
