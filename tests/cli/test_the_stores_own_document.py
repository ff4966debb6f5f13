"""The document of the store itself is damaged or missing: what is readable is read, nothing is made anew unasked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import anyio
import apsw
import pytest

from tai_state import ANY, ChangeMetadata, CorruptDocument, StoreNotFound, open_store

from ..support.program import Inside

WHO = ChangeMetadata("tester", "a test")
STORE = "meta/store"
DAMAGE = {
    "edited": "UPDATE documents SET fields = replace(fields, 'format', 'formed') WHERE collection = 'meta'",
    "no JSON": "UPDATE documents SET fields = '{' WHERE collection = 'meta'",
    "missing": "DELETE FROM documents WHERE collection = 'meta'",
}
READ = [
    ["ls"],
    ["ls", "g"],
    ["show", "g", "s"],
    ["show", "g", "s", "--version", "1"],
    ["history", "g", "s"],
    ["diff", "g", "s", "1", "2"],
    ["stats"],
    ["stats", "--size"],
    ["locks"],
    ["conflicts", "g"],
]
WRITTEN = [["snapshot", "g", "s"], ["cleanup", "g", "--yes"], ["unlock", "r", "--yes"], ["sync", "{}", "memory://"]]


async def _fill(url: str) -> str:
    async with open_store(url, metadata=WHO) as store:
        for n in range(3):
            await store.save_state("g", "s", {"n": n}, expected=ANY)
        await store.locks.acquire_lock("r", ttl_seconds=3_600)
        return store.store_id


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that holds a state at version 3, and a lock."""
    folder = tmp_path_factory.mktemp("filled")
    anyio.run(_fill, f"sqlite:///{folder}/tai-state.db")
    return folder


@pytest.fixture
def inside(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program in this process, in a folder with a copy of the store."""
    for path in filled.iterdir():
        shutil.copy(path, tmp_path)
    return Inside(tmp_path, monkeypatch, capsys)


def damage(folder: Path, kind: str) -> None:
    """Damage the store's own document, or remove it."""
    connection = apsw.Connection(str(folder / "tai-state.db"))
    connection.execute(DAMAGE[kind])
    assert connection.changes() == 1
    connection.close()


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("command", READ, ids=" ".join)
def test_what_is_readable_is_read(inside: Inside, kind: str, command: Sequence[str]) -> None:
    """A command that only reads prints what it prints of a sound store, names the damage, and ends with 4."""
    sound = inside(*command, "--json")
    assert (sound.code, sound.err) == (0, "")
    damage(inside.folder, kind)
    ended = inside(*command, "--json")
    assert (ended.code, ended.err.count("\n")) == (4, 1)
    assert (json.loads(ended.err)["error"]["path"], "tai-state recover" in ended.err) == (STORE, True)
    if "--size" not in command:
        assert ended.out == sound.out
    assert (ended.code, inside(*command).err.count(STORE)) == (4, 1)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("command", WRITTEN, ids=lambda each: each[0])
def test_nothing_is_written_without_an_id(inside: Inside, kind: str, command: Sequence[str]) -> None:
    """A command that writes says what to do first."""
    damage(inside.folder, kind)
    before = (inside.folder / "tai-state.db").read_bytes()
    ended = inside(*[each.format("sqlite:///tai-state.db") for each in command], "--json")
    error = ended.error(4)
    assert (error["path"], "tai-state recover" in error["message"]) == (STORE, True)
    assert (inside.folder / "tai-state.db").read_bytes() == before


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("create", [True, False])
@pytest.mark.anyio
async def test_a_service_is_told_and_gets_no_new_id(inside: Inside, kind: str, *, create: bool) -> None:
    """Opening such a store is refused, whether or not it may create one; nothing is written."""
    damage(inside.folder, kind)
    for _ in range(2):
        with pytest.raises(CorruptDocument, match="run `tai-state recover`"):
            async with open_store(f"sqlite:///{inside.folder}/tai-state.db", create=create):
                pass


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("governor", [[], ["g"]], ids=["all", "one governor"])
def test_recover_mends_it(inside: Inside, kind: str, governor: Sequence[str]) -> None:
    """The check names it as one finding; a recovery gives the store a new id; then nothing is left to say."""
    damage(inside.folder, kind)
    checked = inside("verify", *governor, "--json")
    report = json.loads(checked.out)
    assert (checked.code, checked.err, report["states"]) == (4, "", 1)
    [finding] = report["findings"]
    assert (finding["path"], finding["kind"], "tai-state recover" in finding["message"]) == (STORE, "store", True)
    assert "tai-state recover" in inside("doctor").out
    found = inside("recover", *governor, "--json").json()
    assert found["rebuilt"] == [STORE]
    assert f"its id is {found['new_store_id']}" in inside("doctor").out
    assert inside("verify", "--json").json()["consistent"]
    again = inside("recover", *governor, "--json").json()
    assert (again["rebuilt"], again["new_store_id"]) == ([], None)
    damage(inside.folder, "missing")
    told = inside("recover", *governor)
    assert (told.code, "the store has a new id, " in told.err, "restart" in told.err) == (0, True, True)


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_new_id_is_another_one(inside: Inside, kind: str) -> None:
    """The next change counts under the new id, on top of what the old one counted."""

    async def change() -> tuple[str, dict[str, int]]:
        async with open_store(f"sqlite:///{inside.folder}/tai-state.db", metadata=WHO) as store:
            return store.store_id, (await store.save_state("g", "s", {"n": 9}, expected=ANY)).causality

    old, before = anyio.run(change)
    damage(inside.folder, kind)
    assert inside("recover", "--json").json()["consistent"]
    new, causality = anyio.run(change)
    assert new != old
    assert causality == {**before, new: 1}


def test_a_store_without_documents_is_still_made(inside: Inside) -> None:
    """Where nothing else is, a store is made if it may be, and otherwise there is none."""
    connection = apsw.Connection(str(inside.folder / "tai-state.db"))
    connection.execute("DELETE FROM documents")
    connection.close()
    url = f"sqlite:///{inside.folder}/tai-state.db"

    async def opened(*, create: bool) -> str:
        async with open_store(url, create=create) as store:
            return store.store_id

    with pytest.raises(StoreNotFound):
        anyio.run(lambda: opened(create=False))
    assert inside("ls").code == 1
    assert anyio.run(lambda: opened(create=True))
