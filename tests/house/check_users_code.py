"""What users copy has types: the code of pages and examples, and a user's module. ``nox -s types`` runs this by name.

It is checked in a folder of its own, where no settings of this project hold. A page is one module: statements that
await stand in functions, everything else at the top, and each line has the number that it has in the page. The format
and the decisions are left out: what they show is not for copying.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.pages import PAGES, ROOT, Block, blocks

HOUSE = ROOT / "tests" / "house"
WRONG = "typing_machines_wrong.py"
SETTINGS = {"typeCheckingMode": "strict", "pythonVersion": "3.12"}  # apsw names types of 3.12 in its stubs
CHECKERS = [("mypy", "--strict", "."), ("pyright", "--pythonpath", sys.executable)]


def _awaits(statement: ast.stmt) -> bool:
    """Whether a statement may stand in an asynchronous function alone."""
    module = ast.Module([statement], [])
    code = compile(module, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return bool(code.co_flags & inspect.CO_COROUTINE)


def _place(block: Block, lines: list[str]) -> None:
    """Put a block's statements at their lines; those that await one after the other become one function."""
    text = block.text.splitlines()
    is_in_function = False
    for statement in ast.parse(block.text).body:
        first = min(node.lineno for node in (statement, *getattr(statement, "decorator_list", ()))) - 1
        awaits = _awaits(statement)
        start = block.line - 1 + first
        if awaits and not is_in_function:
            assert not lines[start - 1], f"{block.page}:{start}: an empty line is to stand before what awaits"
            lines[start - 1] = f"async def from_line_{start + 1}() -> None:"
        for index, line in enumerate(text[first : statement.end_lineno], start):
            lines[index] = f"    {line}" if awaits and line else line
        is_in_function = awaits


def _write_page(page: Path, folder: Path) -> None:
    """Write what a page shows as modules."""
    lines = [""] * len(page.read_text().splitlines())
    for block in blocks(page):
        if block.language == "python" and block.file:
            (folder / block.file).write_text(block.text)
        elif block.language == "python":
            _place(block, lines)
    if any(lines):
        (folder / f"{page.stem.lower().replace('-', '_')}.py").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it in a folder, with the settings of a strict user of pyright; mypy's are in its call."""
    folder = tmp_path_factory.mktemp("code")
    for page in PAGES:
        if page.parent.name != "decisions" and page.name != "format.md":
            _write_page(page, folder)
    shutil.copytree(ROOT / "examples", folder / "examples")
    for module in ("typing_api.py", "typing_machines.py", "typing_adapters.py"):
        shutil.copy(HOUSE / module, folder)
    (folder / "pyrightconfig.json").write_text(json.dumps(SETTINGS))
    return folder


@pytest.mark.timeout(400)
@pytest.mark.parametrize("checker", CHECKERS, ids=lambda each: each[0])
def test_a_type_checker_accepts_what_users_copy(checker: tuple[str, ...], code: Path) -> None:
    """A checker, as strict as it gets, finds nothing in the code of pages and examples and in a user's modules."""
    done = subprocess.run([sys.executable, "-m", *checker], cwd=code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(400)
@pytest.mark.parametrize("checker", CHECKERS, ids=lambda each: each[0])
def test_a_type_checker_rejects_wrong_uses_of_machines(checker: tuple[str, ...], tmp_path: Path) -> None:
    """A checker reports each line that is marked as wrong, and no other."""
    for module in ("typing_machines.py", WRONG):
        shutil.copy(HOUSE / module, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(SETTINGS))
    done = subprocess.run([sys.executable, "-m", *checker], cwd=tmp_path, capture_output=True, text=True, check=False)
    reported = re.findall(r"(\w+\.py):(\d+)(?::\d+)?(?: -|:) error", done.stdout)
    lines = (HOUSE / WRONG).read_text().splitlines()
    marked = {(WRONG, str(number)) for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert {*reported} == marked, done.stdout + done.stderr
