"""The examples run as they stand, and print what their docstrings say."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_it_says(example: Path, tmp_path: Path) -> None:
    """An example, run in an empty folder with warnings as errors, prints the lines of its docstring."""
    docstring = ast.get_docstring(ast.parse(example.read_text())) or ""
    expected = textwrap.dedent(docstring.partition("::\n\n")[2])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip("\n") == expected


def test_there_are_examples() -> None:
    """The folder of examples is found, wherever the tests run from."""
    assert [example.stem for example in EXAMPLES] == [
        "field_device",
        "ledger",
        "nightly_job",
        "orders",
        "pump",
        "transfer",
    ]
