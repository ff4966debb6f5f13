"""The pytest plugin, as a user's suite meets it: each test runs a suite of its own in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tai_state.engines.firestore.engine import EMULATOR
from tai_state.testing.emulator import answers

if TYPE_CHECKING:
    from pathlib import Path

    from tai_state.testing.emulator import Emulator

STORES = """
import asyncio

def test_first(tai_state_store):
    async def use():
        async with tai_state_store as store:
            assert [each async for each in store.list_governors()] == []
            await store.state("g", "s").save({}, ChangeMetadata("me", "test"))
    asyncio.run(use())

test_second = test_first

from tai_state import ChangeMetadata
"""

SUITE_ON_EMULATOR = """
import os

def test_address(firestore_emulator):
    assert os.environ["FIRESTORE_EMULATOR_HOST"] == firestore_emulator.host
    print("HOST", firestore_emulator.host)

def test_projects(firestore_project, tmp_path):
    (tmp_path.parent / firestore_project).touch(exist_ok=False)

def test_other(): pass
"""


STORES_ON_FIRESTORE = STORES.replace("tai_state_store", "firestore_store")


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which no emulator can be found."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
    return {**kept, "PATH": str(tmp_path), "HOME": str(tmp_path)}


def _run_suite(folder: Path, suite: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    file = folder / "test_suite.py"
    file.write_text(suite)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-s",
        "-ra",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
        str(file),
    ]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.returncode, done.stdout


def test_each_test_has_a_store_of_its_own(tmp_path: Path):
    """What one test writes into its store, the next does not see."""
    code, output = _run_suite(tmp_path, STORES)
    assert code == 0, output
    assert "2 passed" in output


@pytest.mark.usefixtures("firestore_emulator")
def test_one_emulator_serves_the_run_and_ends_with_it(tmp_path: Path):
    """It is started at the first use, its address stands in the environment, and it is gone with the run."""
    environment = {name: value for name, value in os.environ.items() if name != EMULATOR}
    code, output = _run_suite(tmp_path, SUITE_ON_EMULATOR, environment)
    assert code == 0, output
    [host] = [line.split()[-1] for line in output.splitlines() if "HOST" in line]
    assert not answers(host)


def test_an_emulator_that_runs_is_used(tmp_path: Path, firestore_emulator: Emulator):
    """With FIRESTORE_EMULATOR_HOST set no other emulator is started."""
    code, output = _run_suite(tmp_path, SUITE_ON_EMULATOR)
    assert code == 0, output
    assert f"HOST {firestore_emulator.host}" in output


@pytest.mark.usefixtures("firestore_emulator")
def test_each_test_has_a_store_of_its_own_on_firestore(tmp_path: Path):
    """The emulator is shared, what one test writes is not."""
    code, output = _run_suite(tmp_path, STORES_ON_FIRESTORE)
    assert code == 0, output
    assert "2 passed" in output


def test_without_an_emulator_tests_are_skipped_aloud(tmp_path: Path, bare: dict[str, str]):
    """The tests that need it are skipped, the others run, and one line at the end says what to install."""
    code, output = _run_suite(tmp_path, SUITE_ON_EMULATOR, bare)
    assert code == 0, output
    assert "1 passed, 2 skipped" in output
    *_, line, _ = output.splitlines()
    assert "NOT RUN: 2 tests" in line
    assert "gcloud components install" in line


def test_without_an_emulator_ci_fails(tmp_path: Path, bare: dict[str, str]):
    """With CI=true nothing is skipped: a machine that lacks the emulator does not pass."""
    code, output = _run_suite(tmp_path, SUITE_ON_EMULATOR, {**bare, "CI": "true"})
    assert code == 1
    assert "1 passed, 2 errors" in output
    assert "gcloud components install" in output


def test_a_run_that_uses_no_fixture_loads_nothing():
    """The plugin brings neither tai-state nor Google's packages into a run that does not use them."""
    code = "import sys, pytest_tai_state; print(sorted({'tai_state', 'google', 'grpc'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
