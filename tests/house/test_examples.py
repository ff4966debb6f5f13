"""The examples run as they stand, and print what their docstrings say."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_it_says(example: Path, tmp_path: Path) -> None:
    """An example, run in an empty folder with warnings as errors, prints the lines of its docstring."""
    check_example(example, tmp_path, {})


@pytest.mark.parametrize("name", ["coordinator", "request"])
def test_an_example_of_machines_runs_on_firestore(name: str, tmp_path: Path, firestore_project: str) -> None:
    """The same example, its killed process included, prints the same on the emulator."""
    check_example(FOLDER / f"{name}.py", tmp_path, {"TAI_STATE_STORE": f"firestore://{firestore_project}"})


def check_example(example: Path, folder: Path, variables: dict[str, str]) -> None:
    """Check that an example ends well and prints the lines of its docstring."""
    docstring = ast.get_docstring(ast.parse(example.read_text())) or ""
    expected = textwrap.dedent(docstring.partition("::\n\n")[2])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=folder,
        env={**os.environ, "PYTHONSAFEPATH": "1", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip("\n") == expected


def test_the_examples_are_listed() -> None:
    """The README of the examples has each of them once, the web service included."""
    listed = re.findall(r"^\| \[`.+`\]\((.+)\) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted([*(example.name for example in EXAMPLES), "web/service.py"])
    assert (FOLDER / "web" / "service.py").exists()
