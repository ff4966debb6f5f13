"""A backup by the program, so that nobody needs another library for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import anyio
import apsw
import pytest

from tai_state import StateMachinePersister, open_store

from ..support.processes import started
from ..support.program import IMPORT, SCRIPT, Inside, Program, interrupt, make_rows, write_csv
from ..support.sqlite import connected, names_in
from ..support.stores import GOVERNOR, METADATA, collected

anyio_test = pytest.mark.anyio

WRITE_FOR_EVER = """
import asyncio
from tai_state import ChangeMetadata, open_store

async def main():
    async with open_store("sqlite:///tai-state.db") as store:
        bank = [store.state("bank", name) for name in ("left", "right")]
        for n in range(1_000_000):

            async def change(transaction):
                for each in bank:
                    transaction.put(each, {"n": n, "x": "y" * 100_000})

            await store.transact(change, ChangeMetadata("tester", "a test"))
            print(n, flush=True)

asyncio.run(main())
"""

COPY_WITHOUT_END = """
import apsw, time
from tai_state.engines.sqlite import backing_up
from tai_state.cli.program import main
backing_up._STEP_PAGES = 0  # so each step copies nothing
main()
"""


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: the program has its own."""
    return "asyncio"


@anyio_test
async def test_a_backup_opens_as_a_store(tmp_path: Path):
    """What was acknowledged before a backup is in it, while a service goes on writing and loses nothing."""
    async with open_store(f"sqlite:///{tmp_path}/tai-state.db") as store:
        await store.save_state(GOVERNOR, "before", {"n": 1}, METADATA)
        done = Program(tmp_path)("backup", "copy.db", "--json")
        assert (done.code, done.err) == (0, "")
        assert done.json() == {"documents": 4, "bytes": os.stat(tmp_path / "copy.db").st_size}  # noqa: PTH116 - in async
        await store.save_state(GOVERNOR, "after", {"n": 2}, METADATA)
    async with open_store(f"sqlite:///{tmp_path}/copy.db", create=False) as backup:
        assert {state.state_id: state.data for state in await collected(backup.list_states(GOVERNOR))} == {
            "before": {"n": 1}
        }
    async with open_store(f"sqlite:///{tmp_path}/tai-state.db") as store:
        assert await store.count_states(GOVERNOR) == 2
    assert names_in(tmp_path) == ["copy.db", "tai-state.db"]


@anyio_test
async def test_a_backup_is_of_one_moment(tmp_path: Path):
    """A backup under load ends, and has all that was acknowledged before it, and no half of a transaction."""
    command = [sys.executable, "-c", WRITE_FOR_EVER]
    with started(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(40)][-1]
        ended = Program(tmp_path)("backup", "copy.db", "--json")
        assert writer.poll() is None
    assert ended.json()["documents"] > 80
    async with open_store(f"sqlite:///{tmp_path}/copy.db", create=False) as copy:
        left, right = [await copy.get_state("bank", name) for name in ("left", "right")]
        assert left.data["n"] == right.data["n"] >= acknowledged
        assert (await StateMachinePersister(copy).validate_consistency()).consistent


def test_a_backup_is_put_back(program: Program) -> None:
    """By the steps of the page, word for word: what was changed since is in the old files, and all else as it was."""
    before = program("ls", "--json").json()
    assert program("backup", "backup.db").code == 0
    write_csv(program.folder / "log.csv", make_rows(5))
    assert program("import", "log.csv", "--governor", "since", *IMPORT).code == 0
    after = program("ls", "--json").json()
    assert after != before
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    section = page.partition("### Put a backup back\n")[2].partition("\n### ")[0]
    [steps] = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    path = f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}"
    for log in ("wal", "shm"):
        (program.folder / f"tai-state.db-{log}").write_bytes(b"of the old file")
    steps = steps.replace("tai-state verify", "tai-state verify bank")  # one governor of this store needs reducers
    done = subprocess.run(
        ["sh", "-ec", steps],
        cwd=program.folder,
        env={**program.environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "2 states, 7 events: consistent\n" * 2), done
    assert program("ls", "--json").json() == before
    assert names_in(program.folder / "replaced") == ["tai-state.db", "tai-state.db-shm", "tai-state.db-wal"]
    for log in ("wal", "shm"):
        (program.folder / "replaced" / f"tai-state.db-{log}").unlink()
    assert program("ls", "--json", "--store", "sqlite:///replaced/tai-state.db").json() == after


def test_a_backup_is_no_more_open_than_its_store(program: Program) -> None:
    """Who may not read the store may not read its backup either."""
    (program.folder / "tai-state.db").chmod(0o600)
    assert program("backup", "copy.db").code == 0
    assert (program.folder / "copy.db").stat().st_mode & 0o777 == 0o600


def test_a_file_is_replaced_only_when_told_to(program: Program) -> None:
    """A file that exists is replaced with ``--yes``, and never by a backup that failed."""
    target = program.folder / "copy.db"
    target.write_text("precious")
    refused = program("backup", "copy.db")
    assert (refused.code, refused.out) == (2, "")
    assert "pass --yes" in refused.err
    assert program("backup", "copy.db", "--store", "sqlite:///shop.py", "--yes").code == 4
    assert target.read_text() == "precious"
    assert program("backup", "copy.db", "--yes").code == 0
    assert program("ls", "--store", "sqlite:///copy.db", "--json").json() == program("ls", "--json").json()
    assert not list(program.folder.glob("*.partial*"))


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["backup", "copy.db", "--store", "sqlite:///missing.db"], "StoreNotFound"),
        (["export", "bank", "copy.db", "--store", "sqlite:///missing.db"], "StoreNotFound"),
        (["export", "nobody", "copy.db"], "GovernorNotFound"),
    ],
)
def test_nobody_is_asked_to_replace_a_file_by_nothing(program: Program, arguments: list[str], kind: str) -> None:
    """Whether there is something to write is looked at before the question, which is a usage error here."""
    (program.folder / "copy.db").write_text("precious")
    assert program(*arguments, "--json").error(1)["type"] == kind


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nowhere/copy.db"], "cannot be written"),
        (["."], "is not a file"),
        (["-"], "name a file"),
        (["tai-state.db", "--yes"], "in use"),
        (["copy.db", "--store", "memory://"], "is not a file"),
    ],
)
def test_places_where_no_backup_can_be(there: Program, arguments: list[str], why: str) -> None:
    """Such a place is a usage error, and the store's own file is such a place."""
    assert why in there("backup", *arguments, "--json").error(2)["message"]


@pytest.mark.parametrize("log", ["copy.db-wal", "copy.db-journal"])
@pytest.mark.parametrize("command", [("backup",), ("export", "bank")], ids=["backup", "export"])
def test_a_store_in_use_is_not_replaced(program: Program, command: tuple[str, ...], log: str) -> None:
    """A file with a log beside it is not replaced, nor a link to it: SQLite would mix the two."""
    (program.folder / log).touch()
    (program.folder / "link.db").symlink_to("copy.db")
    for target in ("copy.db", "link.db"):
        assert "in use" in program(*command, target, "--json").error(2)["message"]
    assert not (program.folder / "copy.db").exists()
    assert (program.folder / "link.db").is_symlink()


def test_an_export_does_not_replace_its_own_store(there: Program) -> None:
    """Whatever was confirmed, the store that is read stays."""
    assert "in use" in there("export", "bank", "tai-state.db", "--yes", "--json").error(2)["message"]


def make_no_store(folder: Path) -> dict[str, tuple[str, int]]:
    """Addresses of what is no store, each with the error of it and its exit code."""
    with closing(apsw.Connection(str(folder / "notes.db"))) as connection:
        connection.execute("CREATE TABLE notes (text)")
    connected(folder / "unfinished.db").close()
    (folder / "empty.db").touch()
    (folder / "lost.db-wal").write_bytes(b"the newest changes")
    return {
        "notes.db": ("IncompatibleFormat", 4),
        "shop.py": ("CorruptDocument", 4),
        "empty.db": ("StoreNotFound", 1),
        "missing.db": ("StoreNotFound", 1),
        "unfinished.db": ("StoreNotFound", 1),  # the process that made its tables was killed before it made the store
        "tai-state.db?root=other&namespace=other": ("StoreNotFound", 1),
        "lost.db": ("StoreUnusable", 5),
    }


def test_what_is_no_store_does_not_replace_a_backup(program: Program) -> None:
    """A backup of what is no store is refused before anything is written, and so the last good backup stays."""
    assert program("backup", "copy.db").code == 0
    kinds = make_no_store(program.folder)
    before = {path.name: path.read_bytes() for path in program.folder.iterdir() if path.is_file()}
    for address, (kind, code) in kinds.items():
        url = f"sqlite:///{address}"
        assert program("backup", "copy.db", "--yes", "--store", url, "--json").error(code)["type"] == kind
        assert {path.name: path.read_bytes() for path in program.folder.iterdir() if path.is_file()} == before


DAMAGE = {
    "an index": "UPDATE documents SET timestamp = 'x' WHERE timestamp IS NOT NULL",
    "the store's own document": "UPDATE documents SET fields = '{' WHERE collection = 'meta'",
    "no store's own document": "DELETE FROM documents WHERE collection = 'meta'",
    "the counter": "DELETE FROM counter",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_store_is_copied_and_replaces_nothing(program: Program, kind: str) -> None:
    """The damage is named, and the copy has it; but it does not take the place of the last good backup."""
    assert program("backup", "good.db").code == 0
    good = (program.folder / "good.db").read_bytes()
    with closing(apsw.Connection(str(program.folder / "tai-state.db"))) as connection:
        connection.execute(DAMAGE[kind])
    error = program("backup", "good.db", "--yes", "--json").error(4)
    assert (error["type"], "name another file" in error["message"]) == ("CorruptDocument", True)
    assert (program.folder / "good.db").read_bytes() == good
    assert not list(program.folder.glob("*.partial*"))
    copied = program("backup", "copy.db", "--json")
    assert (copied.code, json.loads(copied.err.splitlines()[0])["error"]["path"]) == (4, error["path"])
    assert json.loads(copied.out)["bytes"] == (program.folder / "copy.db").stat().st_size
    found, there = (program("verify", "--store", f"sqlite:///{name}.db").out for name in ("copy", "tai-state"))
    assert found.replace("copy.db", "tai-state.db") == there


def test_a_file_with_garbage_in_it_is_copied(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever page is hit, as long as the file's header says whose it is."""
    inside = Inside(tmp_path, monkeypatch, capsys)
    file, size = program.folder / "tai-state.db", 4096
    sound = file.read_bytes()
    for begin in range(size, len(sound), 2 * size):
        garbage = sound[:begin] + bytes(range(256)) * (size // 256) + sound[begin + size :]
        file.write_bytes(garbage)
        copied = inside("backup", "copy.db", "--json")
        assert (copied.code, json.loads(copied.err)["error"]["type"]) == (4, "CorruptDocument"), begin
        assert json.loads(copied.out)["bytes"] == len(sound)
        copy = (tmp_path / "copy.db").read_bytes()
        assert copy[size:] == garbage[size:]
        assert not list(tmp_path.glob("copy.db?*"))
        (tmp_path / "copy.db").unlink()


def test_a_damaged_backup_says_what_it_could_not_count(program: Program) -> None:
    """For people, a number that the damage hides is unknown."""
    file, size = program.folder / "tai-state.db", 4096
    sound = file.read_bytes()
    file.write_bytes(sound[:size] + bytes(len(sound) - size))
    assert "unknown" in program("backup", "copy.db").out


async def change_all(url: str, expected: int) -> None:
    """Change three states of two governors."""
    async with open_store(url) as store:
        for governor_id, state_id in (("bank", "hurt"), ("bank", "sound"), ("shop", "sound")):
            data = {"n": expected + 1}
            await store.update_state(governor_id, state_id, data, METADATA, expected=expected)


@pytest.mark.parametrize("begin", ["backup", "export"])
def test_only_what_is_damaged_is_taken_from_a_backup(tmp_path: Path, begin: str) -> None:
    """By the steps in the guide, only those changes of the damaged state are lost that came after the backup."""
    program = Program(tmp_path, TAI_STATE_STORE="sqlite:///mended.db")
    broken = "sqlite:///tai-state.db"
    anyio.run(change_all, f"sqlite:///{tmp_path}/tai-state.db", 0)
    if begin == "backup":
        assert program("backup", "mended.db", "--store", broken).code == 0
    else:
        assert program("export", "bank", "bank.jsonl", "--store", broken).code == 0
        assert program("restore", "bank.jsonl").code == 0
    anyio.run(change_all, f"sqlite:///{tmp_path}/tai-state.db", 1)
    with closing(apsw.Connection(str(tmp_path / "tai-state.db"))) as connection:
        connection.execute("UPDATE documents SET fields = fields || ' ' WHERE path GLOB 'governors/bank/events/hurt~*'")
        assert connection.changes() == 2
    synced = program("sync", "sqlite:///mended.db", broken, "--json")
    assert synced.code == 4
    assert [state for state, _ in json.loads(synced.out)["failed"]] == ["bank hurt"]
    assert program("verify", "--json").json()["consistent"]
    found = {
        (governor, each["state_id"]): each["version"]
        for governor in ("bank", "shop")
        for each in program("ls", governor, "--json").json()
    }
    assert found == {("bank", "hurt"): 1, ("bank", "sound"): 2, ("shop", "sound"): 2}


def test_an_interrupted_backup_leaves_no_file(program: Program) -> None:
    """Ctrl-C ends it with 130, whatever is left to copy, and nothing half-written stays."""
    stuck = Program(program.folder, command=(sys.executable, "-c", COPY_WITHOUT_END))
    with stuck.started("backup", "copy.db") as process:
        assert process.stderr is not None
        assert b"pages copied" in process.stderr.readline()
        interrupt(process)
        _, err = process.communicate()
    assert (process.returncode, b"interrupted" in err) == (130, True)
    assert not list(program.folder.glob("copy.db*"))
