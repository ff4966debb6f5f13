"""Crash, loss of power, failing disk: the short tier of ``tests/proof``, which has the programs and the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tai_state

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.timeout(400)

Proofs = dict[str, dict[str, Any]]
PROGRAM = Path(__file__).parents[2] / "proof"
CANNOT_TRACE = 3


@pytest.fixture
def prove(tmp_path: Path) -> Callable[[str], Proofs]:
    """Runs the short tier of one kind of proof; its account by the proofs' names."""

    def run(kind: str) -> Proofs:
        account = tmp_path / "account.json"
        command = [sys.executable, str(PROGRAM), "--tier", "ci", "--only", kind, "--json", str(account)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode == CANNOT_TRACE:
            # On a developer's machine that is worth a word; where it would go unread, it is a failure.
            (pytest.fail if os.environ.get("CI") else pytest.skip)(done.stderr.strip())
        print(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr[-4_000:]
        return {each["proof"]: each for each in json.loads(account.read_text())["proofs"]}

    return run


def environment() -> dict[str, str]:
    """For the programs: they are to import the same library as this process."""
    parent = Path(tai_state.__file__).resolve().parent.parent
    return {**os.environ, "PYTHONPATH": str(parent)} if (parent / "pyproject.toml").exists() else dict(os.environ)


def test_killed_at_any_call_that_writes_nothing_acknowledged_is_lost_and_nothing_is_torn(prove) -> None:
    """The process dies at each system call by which it changes a file; opened again, all is as it was said to be."""
    proof = prove("kill")["kill"]
    assert proof["trials"] >= 150


def test_power_lost_at_any_moment_nothing_acknowledged_is_lost(prove) -> None:
    """Whatever part of the unsynced writes and names reached the disk, also after a sync that failed."""
    proofs = prove("power")
    assert proofs["power"]["images"] >= 300
    assert proofs["power after a failed sync"]["images"] >= 20


def test_a_full_or_failing_disk_is_told_as_it_is_and_survived(prove) -> None:
    """Each write, sync, open and truncation fails once: errors are typed and true, and the next step is done."""
    proof = prove("disk")["disk"]
    assert proof["trials"] >= 150


def test_the_proofs_find_mistakes_made_on_purpose(prove) -> None:
    """Less durability, split commits, early answers, swallowed and misjudged errors: each turns its proof red."""
    proofs = prove("mutants")
    assert {name: proof["failure_rate_95"] for name, proof in proofs.items()} == dict.fromkeys(proofs, "caught")
    assert len(proofs) == 6
