"""Whatever ``verify`` finds, whoever does what it says has a sound store, or was told what stays."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tai_state import Finding
from tai_state.engines.sqlite.engine import SqliteEngine
from tai_state.testing import ManualClock

from ..support.planting import WRONG, Behind, Wrong
from ..support.program import Inside

PROOF = Path(__file__).parents[1] / "proof"
APP = ("--app", "flip_store:REDUCERS")
ROUNDS_MAX = 3
_START_US = 1_790_000_000_000_000


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a store in which there is a little of everything, and the file of an export that it restored."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROOF)
        fill = importlib.import_module("flip_store").fill

        async def make() -> None:
            clock = ManualClock(_START_US)
            async with SqliteEngine(str(folder / "tai-state.db"), clock) as engine:
                await fill(engine, clock, folder)

        anyio.run(make)
        yield folder


class Operator:
    """One who reads what ``verify`` says, and does it.

    Args:
        folder: where the store is.
        inside: runs commands there.
    """

    def __init__(self, folder: Path, inside: Inside) -> None:
        self.folder = folder
        self._run = inside

    def verify(self, file: str = "tai-state.db") -> list[Any]:
        """The findings."""
        ended = self._run("verify", *APP, "--json", "--store", f"sqlite:///{file}")
        report = json.loads(ended.out)
        assert report["consistent"] == (ended.code == 0), report
        return report["findings"]

    def follow(self, finding: dict[str, str]) -> None:
        """Do what a finding says, step by step, up to the first step that makes it good."""
        steps = re.findall(r"`tai-state ([^`]+)`|(restore a backup)", finding["message"])
        assert steps, f"no advice: {finding}"
        for command, backup in steps:
            if backup:
                self._take_from_a_backup()
            else:
                self._do(command)
            if finding not in self.verify():
                return

    def _do(self, command: str) -> None:
        name, *arguments = shlex.split(command)
        options: tuple[str, ...] = APP if name == "recover" else ()
        if "--end-restore" in arguments:
            options = (*options, "--yes")
        if name == "restore" and not arguments:
            arguments = ["shop.jsonl"]
        self._run(name, *arguments, *options)

    def _take_from_a_backup(self) -> None:
        """As the page on maintenance says."""
        (self.folder / "mended.db").write_bytes((self.folder / "backup.db").read_bytes())
        self._run("sync", "sqlite:///mended.db", "sqlite:///tai-state.db", *APP)
        for ending in ("", "-wal", "-shm"):
            (self.folder / f"tai-state.db{ending}").unlink(missing_ok=True)
        (self.folder / "mended.db").rename(self.folder / "tai-state.db")


@pytest.mark.parametrize("wrong", WRONG.values(), ids=[each.replace(" ", "_") for each in WRONG])
def test_the_advice_leads_out(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: Wrong
) -> None:
    """Round by round, no finding comes again after its advice was followed; in the end there is none."""
    for name in ("tai-state.db", "shop.jsonl"):
        shutil.copy(sound / name, tmp_path / name)
    shutil.copy(sound / "tai-state.db", tmp_path / "backup.db")
    anyio.run(wrong.plant, Behind(tmp_path / "tai-state.db"))
    operator = Operator(tmp_path, Inside(tmp_path, monkeypatch, capsys))
    findings = operator.verify()
    paths = {(each["path"].removeprefix(f"{tmp_path}/"), each["kind"]) for each in findings}
    assert (wrong.path, wrong.kind) in paths, findings
    seen: list[dict[str, str]] = []
    for _ in range(ROUNDS_MAX):
        again = [each for each in findings if each in seen]
        assert not again, f"it says so again: {again}"
        findings = [each for each in findings if not wrong.stays or wrong.stays not in each["message"]]
        seen += findings
        for each in findings:
            if each in operator.verify():
                operator.follow(each)
        findings = operator.verify()
    assert all(wrong.stays and wrong.stays in each["message"] for each in findings), findings


def test_every_kind_is_planted() -> None:
    """Each kind that a finding says it can have is one of those above."""
    told = re.search(r"kind: (.*?)\n\s+message:", Finding.__doc__ or "", re.DOTALL)
    assert told is not None
    assert {each.kind for each in WRONG.values()} == set(re.findall(r"``(\w+)``", told[1]))
