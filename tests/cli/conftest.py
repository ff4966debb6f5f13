"""A filled store, and the command line beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from ..support.filled import REDUCERS_MODULE, fill
from ..support.program import Inside, Program


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a filled store under the default name, and an application's reducers."""
    folder = tmp_path_factory.mktemp("filled")
    anyio.run(fill, f"sqlite:///{folder}/tai-state.db")
    (folder / "shop.py").write_text(REDUCERS_MODULE)
    return folder


@pytest.fixture
def there(filled: Path) -> Iterator[Program]:
    """The program in the folder of the filled store, which must not change it."""
    before = {path.name: path.read_bytes() for path in filled.glob("*.db*")}
    yield Program(filled)
    assert {path.name: path.read_bytes() for path in filled.glob("*.db*")} == before


@pytest.fixture
def program(filled: Path, tmp_path: Path) -> Program:
    """The program in a folder with a copy of the filled store, to be changed."""
    for path in filled.glob("*.*"):
        shutil.copy(path, tmp_path)
    return Program(tmp_path)


@pytest.fixture
def inside(there: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inside:
    """The program in this process, in the folder of the filled store, which must not change it."""
    return Inside(there.folder, monkeypatch, capsys)
