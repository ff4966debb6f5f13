"""The commands about Firestore and a store's surroundings: doctor, emulator, indexes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tai_state import ChangeMetadata, open_store
from tai_state.cli.doctor import Examination
from tai_state.engines.api import Capabilities, Scan
from tai_state.engines.firestore.engine import EMULATOR
from tai_state.engines.firestore.indexes import index_config
from tai_state.engines.memory import MemoryEngine
from tai_state.errors import StoreUnavailable
from tai_state.store.addresses import Address
from tai_state.streams.settings import SystemClock
from tai_state.testing import ManualClock
from tai_state.testing import emulator as launcher
from tai_state.testing.emulator import answers, fresh_project, started_emulator

from ..support.program import Program, interrupt

if TYPE_CHECKING:
    from collections.abc import Callable

    from tai_state.testing.emulator import Emulator
    from tai_state.values.times import WallClock

METADATA = ChangeMetadata("tester", "a test")
ALL = ["versions", "reachable", "clock", "store"]
ONLINE = ["credentials", "database", "permissions", "indexes"]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program in an empty folder, without a word of emulators or credentials around."""
    program = Program(tmp_path, HOME=str(tmp_path), NO_GCE_CHECK="true")
    for name in (EMULATOR, "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"):
        program.environment.pop(name, None)
    return program


def _make(url: str) -> None:
    async def save() -> None:
        async with open_store(url) as store:
            await store.save_state("g", "s", {"status": "on"}, METADATA)

    anyio.run(save)


def _checks(report: dict[str, Any]) -> dict[str, str]:
    return {each["check"]: each["status"] for each in report["checks"]}


def test_a_sound_file_is_healthy(program: Program):
    """On SQLite every check passes, nothing is changed, and the program ends with 0."""
    _make(f"sqlite:///{program.folder}/tai-state.db")
    file = program.folder / "tai-state.db"
    before = file.read_bytes()
    report = program("doctor", "--json").json()
    assert report["healthy"] is True
    assert _checks(report) == dict.fromkeys([*ALL, "permissions", "disk", "lock", "file"], "ok")
    assert program("doctor").out.endswith("all checks passed\n")
    assert file.read_bytes() == before


def test_a_store_that_is_not_there_is_not_made(program: Program):
    """A missing file is told as such with exit code 1, and is still missing afterwards."""
    ended = program("doctor", "--json")
    assert ended.code == 1
    report = json.loads(ended.out)
    assert (report["healthy"], _checks(report)) == (False, {"versions": "ok", "store": "failed"})
    assert not (program.folder / "tai-state.db").exists()


def test_memory_is_healthy(program: Program):
    """A store in memory needs nothing; that it begins empty is said."""
    report = program("doctor", "--json", "--store", "memory://").json()
    assert _checks(report) == dict.fromkeys(ALL, "ok")


def test_a_damaged_file_is_inconsistent(program: Program):
    """A file that is no database ends with 4, as with every other command."""
    (program.folder / "tai-state.db").write_bytes(b"no database at all, but long enough to be looked at" * 50)
    assert program("doctor").code == 4


def test_an_address_that_means_nothing_is_a_usage_error(program: Program):
    """An unknown address is told by the error that every command gives for it."""
    assert program("doctor", "--json", "--store", "oracle://x").error(2)["type"] == "UnknownStore"
    assert program("doctor", "--json", "--store", "firestore://").error(2)["type"] == "UnknownStore"


def test_the_emulator_is_examined(program: Program, firestore_emulator: Emulator):
    """Before the first write there is no store; after it everything is well, and it says that it is an emulator."""
    program.environment[EMULATOR] = firestore_emulator.host
    url = f"firestore://{fresh_project()}?indexed=status"
    ended = program("doctor", "--json", "--store", url)
    assert ended.code == 1
    checks = _checks(json.loads(ended.out))
    assert [name for name, status in checks.items() if status != "ok"] == ["store"]
    _make(url)
    report = program("doctor", "--json", "--store", url).json()
    assert _checks(report) == dict.fromkeys([*ALL, *ONLINE], "ok")
    messages = {each["check"]: each["message"] for each in report["checks"]}
    assert firestore_emulator.host in messages["reachable"]
    assert "says nothing about a database at Google" in messages["indexes"]


def test_an_emulator_that_is_gone_is_unreachable(program: Program):
    """Where nothing answers the check of that fails, with exit code 5."""
    program.environment[EMULATOR] = f"127.0.0.1:{launcher._free_port()}"
    ended = program("doctor", "--json", "--store", "firestore://p")
    assert ended.code == 5
    report = json.loads(ended.out)
    assert _checks(report) == {"versions": "ok", "reachable": "failed"}
    assert f"{EMULATOR} is set to {program.environment[EMULATOR]}" in report["checks"][-1]["message"]


_MISSING = """
import sys
from importlib.metadata import PackageNotFoundError
from tai_state.cli import doctor, main

def version(package):
    if package != "tai-state":
        raise PackageNotFoundError(package)
    return "1"

doctor.version = version
sys.modules["google"] = sys.modules["grpc"] = None
sys.argv = ["tai-state", "doctor", "--json", "--store", "firestore://p"]
main()
"""


def test_a_missing_extra_is_named():
    """Without Google's library the doctor says what to install, and ends as every command does."""
    done = subprocess.run([sys.executable, "-c", _MISSING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "")
    report = json.loads(done.stdout)
    assert _checks(report) == {"versions": "ok", "store": "failed"}
    assert "grpcio missing" in report["checks"][0]["message"]
    assert 'pip install "tai-state[firestore]"' in report["checks"][1]["message"]


def test_missing_credentials_are_named(program: Program):
    """Without credentials and without an emulator the check of credentials fails, with exit code 5."""
    ended = program("doctor", "--json", "--store", "firestore://p")
    assert ended.code == 5
    assert _checks(json.loads(ended.out)) == {"versions": "ok", "credentials": "failed"}


@pytest.mark.usefixtures("firestore_emulator")
def test_a_database_of_the_wrong_mode_is_named(program: Program, monkeypatch: pytest.MonkeyPatch):
    """A database in Datastore mode fails the check of the database."""
    command = launcher.find_emulator()
    monkeypatch.setattr(launcher, "find_emulator", lambda: [*command, "--database-mode", "datastore-mode"])
    with started_emulator() as emulator:
        program.environment[EMULATOR] = emulator.host
        ended = program("doctor", "--json", "--store", f"firestore://{fresh_project()}")
    assert ended.code == 2
    assert _checks(json.loads(ended.out)) == {"versions": "ok", "database": "failed"}


class _AtGoogle(MemoryEngine):
    """What Firestore at Google might answer."""

    def __init__(self, failing: str = "", code: str = "", clock: WallClock | None = None) -> None:
        super().__init__(SystemClock() if clock is None else clock)
        self.failing = failing
        self.code = code

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, name="firestore", durable=True)

    def _refuse(self, verb: str) -> None:
        if verb == self.failing:
            raise StoreUnavailable(verb, self.code, "as planned")

    async def read(self, paths: Any) -> Any:
        self._refuse("read")
        return await super().read(paths)

    def scan(self, scan: Scan) -> Any:
        if scan.by is not None:
            self._refuse("scan")  # a scan by ids needs no index
        for each in scan.where:
            self._refuse(each.field)
        return super().scan(scan)

    async def commit(self, writes: Any) -> Any:
        if len(writes) == 1 and type(writes[0]).__name__ == "Check":
            self._refuse("commit")
        return await super().commit(writes)


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Callable[[_AtGoogle], Examination]:
    """Gives the examination of a store that is there, on an engine."""
    monkeypatch.delenv(EMULATOR, raising=False)

    def examine(engine: _AtGoogle) -> Examination:
        async def run() -> Examination:
            if engine.failing != "read":
                async with open_store(engine):
                    pass
            examination = Examination("firestore://p?indexed=status")
            await examination.examine()
            return examination

        monkeypatch.setattr(Address, "engine", lambda *_, **__: engine)
        return anyio.run(run)

    return examine


@pytest.mark.parametrize(
    ("failing", "code", "check"),
    [
        ("read", "PERMISSION_DENIED", "credentials"),
        ("read", "UNAUTHENTICATED", "credentials"),
        ("read", "NOT_FOUND", "database"),
        ("read", "FAILED_PRECONDITION", "database"),
        ("read", "UNAVAILABLE", "reachable"),
        ("commit", "PERMISSION_DENIED", "permissions"),
        ("scan", "FAILED_PRECONDITION", "indexes"),
        ("data.status", "FAILED_PRECONDITION", "indexes"),
        ("schema", "FAILED_PRECONDITION", "indexes"),
    ],
)
def test_a_refusal_fails_the_check_it_is_about(
    examined: Callable[[_AtGoogle], Examination], failing: str, code: str, check: str
):
    """Each of Google's refusals fails one check, with exit code 5; what does not rest on it is examined."""
    examination = examined(_AtGoogle(failing, code))
    failed = [each for each in examination.checks if each.status == "failed"]
    assert [each.check for each in failed] == [check]
    assert examination.exit_code == 5
    assert check != "reachable" or "access to firestore.googleapis.com" in failed[0].message
    assert check != "indexes" or "tai-state indexes" in failed[0].message
    assert failing == "read" or examination.checks[-1].check == "store"


def test_a_healthy_database_at_google(examined: Callable[[_AtGoogle], Examination]):
    """Where nothing is refused, it says what is indexed, and that writing is allowed."""
    examination = examined(_AtGoogle())
    assert {each.status for each in examination.checks} == {"ok"}
    messages = {each.check: each.message for each in examination.checks}
    assert "status" in messages["indexes"]
    assert "writing" in messages["permissions"]


def test_a_wrong_clock_is_a_warning(examined: Callable[[_AtGoogle], Examination]):
    """A machine whose clock is far from the engine's is told so; the store can be used all the same."""
    examination = examined(_AtGoogle(clock=ManualClock()))
    [clock] = [each for each in examination.checks if each.check == "clock"]
    assert (clock.status, examination.exit_code) == ("warning", 0)
    assert "NTP" in clock.message


def test_indexes_prints_what_to_deploy(program: Program):
    """Standard output holds the file's content, with the fields that the address names; the hint goes elsewhere."""
    url = "firestore://p/d?indexed=status,address.zip"
    assert program("indexes", "--json", "--store", url).json() == index_config(["status", "address.zip"])
    ended = program("indexes", "--store", url)
    assert json.loads(ended.out) == index_config(["status", "address.zip"])
    assert "firebase deploy" in ended.err
    assert program("indexes", "--json").json() == index_config()
    assert list(program.folder.iterdir()) == []


@pytest.mark.usefixtures("firestore_emulator")
def test_emulator_runs_until_it_is_interrupted(program: Program):
    """The printed line is one for a shell, the emulator answers there, and it ends with the program."""
    with program.started("emulator") as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode().strip()
        assert line.startswith(f"export {EMULATOR}=127.0.0.1:")
        host = line.partition("=")[2]
        assert answers(host)
        interrupt(process)
        assert process.wait(60) == 130
    assert not answers(host)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes as Linux shows them")
@pytest.mark.usefixtures("firestore_emulator")
def test_emulator_ends_when_its_java_does(program: Program):
    """When the emulator dies the program does not wait for ever: it ends with 5 and says so."""
    with program.started("emulator", "--json") as process:
        assert process.stdout is not None
        host = json.loads(process.stdout.readline())["host"]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        [shell] = children
        grandchildren = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        [java] = [each for each in grandchildren if Path(f"/proc/{each}/comm").read_text().strip() == "java"]
        os.kill(int(java), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 5
    assert json.loads(err)["error"]["code"] == "ENDED"
    assert not answers(host)


def test_emulator_says_what_to_install(program: Program):
    """Where none is installed the error names the ways to get one, with exit code 1."""
    program.environment["PATH"] = str(program.folder)
    error = program("emulator", "--json").error(1)
    assert error["type"] == "EmulatorNotFound"
    assert "gcloud components install" in error["message"]


def test_emulator_on_a_taken_port(program: Program, firestore_emulator: Emulator):
    """A port that somebody has is told as such, with exit code 5."""
    port = firestore_emulator.host.rpartition(":")[2]
    assert program("emulator", "--json", "--port", port).error(5)["code"] == "PORT_TAKEN"
