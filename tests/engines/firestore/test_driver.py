"""What is private to Google's libraries: in one file, and looked for before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest

import tai_state
from tai_state import UnknownStore
from tai_state.engines.firestore import driver

PACKAGE = Path(tai_state.__file__).parent
DRIVER = "engines/firestore/driver.py"
RELIED_ON = [(module, owner, name) for module, pairs in driver._RELIED_ON.items() for owner, name in pairs]


def test_the_installed_driver_has_what_is_relied_on():
    """With the release that is installed, the check passes, and it looks for something."""
    driver.check()
    assert len(RELIED_ON) > 5


@pytest.mark.parametrize(("module", "owner", "name"), RELIED_ON)
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, module: str, owner: str, name: str):
    """Where a release of grpcio lacks something, the error says what, and which release to install."""
    needed = [each for each in RELIED_ON if each[:2] == (module, owner)]
    others = {each: None for *_, each in needed if each != name}
    monkeypatch.setattr(f"{module}.{owner}", type(owner, (), others))
    with pytest.raises(UnknownStore) as caught:
        driver.check()
    assert str(caught.value) == (
        f"grpcio {version('grpcio')} is not supported: its {module}.{owner} has no {name}; "
        f"run: pip install 'grpcio<{driver.GRPCIO_BELOW}'"
    )


def test_a_class_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch):
    """Where even the class is gone, the error is the same."""
    module, owner, _ = RELIED_ON[-1]
    monkeypatch.delattr(f"{module}.{owner}")
    with pytest.raises(UnknownStore, match=f"{owner} has no"):
        driver.check()


_WITH_ANOTHER_RELEASE = """
import asyncio
import grpc._channel

del grpc._channel._SingleThreadedRendezvous._consume_next_event
from tai_state import UnknownStore, open_store

async def main():
    for _ in range(2):
        try:
            async with open_store("firestore://project"):
                print("open")
        except UnknownStore as error:
            print(error)

asyncio.run(main())
"""


def test_opening_a_store_says_what_is_missing():
    """A store is not opened with a release that lacks something, however often it is tried: no call fails later."""
    done = subprocess.run([sys.executable, "-c", _WITH_ANOTHER_RELEASE], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(
        "is not supported: its grpc._channel._SingleThreadedRendezvous has no _consume_next" in each for each in lines
    )


def test_the_extra_excludes_the_releases_that_were_not_tried():
    """The bound that the error names is the one of the extra."""
    [bound] = [each for each in requires("tai-state") or () if each.startswith("grpcio") and "'firestore'" in each]
    assert bound.partition(";")[0].strip() == f"grpcio<{driver.GRPCIO_BELOW}"


def _private(tree: ast.AST) -> list[str]:
    """The private attributes that code uses of what is not its own."""
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
    ]


def _of_google(tree: ast.AST) -> list[str]:
    """The modules of Google's libraries that code imports, also by their names."""
    named = [
        each.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")
        for each in node.args
        if isinstance(each, ast.Constant)
    ]
    imported = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    ]
    return [each for each in [*named, *imported] if each.split(".")[0] in {"grpc", "google"}]


FILES = sorted(PACKAGE.glob("engines/firestore/*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_private_stands_in_the_driver_alone(path: Path):
    """No other file of the engine reaches into a call or a channel, or imports Google's libraries."""
    tree = ast.parse(path.read_text())
    if path.relative_to(PACKAGE).as_posix() == DRIVER:
        assert _private(tree)
        assert _of_google(tree)
    else:
        assert _private(tree) == []
        assert _of_google(tree) == []
