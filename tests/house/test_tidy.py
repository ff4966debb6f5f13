"""The shape of package and tests: who imports whom, how long files and functions are, what has no place in them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tai_state

PACKAGE = Path(tai_state.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

ROOMS = (
    "errors",
    "values",
    "engines",
    "streams",
    "locks",
    "history",
    "machines",
    "adapters",
    "transactions",
    "conflicts",
    "store",
    "testing",
    "web",
    "cli",
    "__main__",
)
"""The order of imports: a room imports from those before it."""

PURE = ("values/", "machines/")
"""Where the same call gives the same result, except in the shells."""
SHELLS = {
    *("machines/aftermath.py", "machines/asking.py", "machines/completing.py", "machines/firing.py"),
    *("machines/machine.py", "machines/migrating.py", "machines/monitoring.py", "machines/persistent.py"),
    "machines/running.py",
}
"""The files of pure rooms that take the time, log, or wait for a store; the others do not know them."""
READY = "machines/ready/"
"""Definitions, each beside its machine in memory."""
IMPURE = {"asyncio", "random", "time", "uuid", "logging", "os", "sys", "socket", "threading", "anyio", "trio", "apsw"}

SETTLES = "engines/settling.py"
"""The one file that weighs a refusal or a lost answer."""

ANSWERS = ("errors.py", "testing/", "engines/memory.py", "engines/sqlite/", "engines/firestore/")
"""Where refusals and lost answers come from, or are made on purpose."""

LINES_MAX = 400
LINES_MAX_OF = {"errors.py": 700, "store/store.py": 600}
"""The tree of errors is read as a whole, and so are the methods of a store."""
FUNCTION_LINES_MAX = 60

TESTS = Path(__file__).parents[1]
TEST_FILES = sorted(TESTS.rglob("*.py"))
TEST_LINES_MAX = 600


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> list[str]:
    """The modules that a file imports: at the top, in functions, and for type checkers alone."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            found += [each if _file(each := f"{module}.{alias.name}") else module for alias in node.names]
    return found


def _file(module: str) -> Path | None:
    """The file of a module of the package; None where it is of another package."""
    if module.split(".", maxsplit=1)[0] != "tai_state":
        return None
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_room_imports_only_from_rooms_before_it(path: Path) -> None:
    """The order of imports that docs/architecture.md draws holds in every file, for late imports too."""
    room = _room(path)
    if room == "__init__":
        return
    assert room in ROOMS, f"{room} is not a room of the house"
    for module in _imports(path):
        file = _file(module)
        if file is not None:
            assert ROOMS.index(_room(file)) <= ROOMS.index(room), f"{_name(path)} imports {module}"


def test_imports_have_no_circle() -> None:
    """No file imports itself by any detour, late imports and those for type checkers included."""
    imported = {path: {file for module in _imports(path) if (file := _file(module))} - {path} for path in FILES}
    while free := [path for path, files in imported.items() if not files & imported.keys()]:
        for path in free:
            del imported[path]
    assert not imported, sorted(map(_name, imported))


def _weighs(node: ast.AST) -> bool:
    """Whether a refusal is named here, or an error asked whether its outcome is unknown."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("unknown", "CommitRefused")
    return isinstance(node, ast.Name) and node.id == "CommitRefused"


def test_one_file_weighs_refusals_and_lost_answers() -> None:
    """Besides the engines, whose answers they are, one file catches a refusal or asks whether an answer was lost."""
    asking = [path for path in FILES if not _name(path).startswith(ANSWERS)]
    assert [_name(path) for path in asking if any(map(_weighs, ast.walk(ast.parse(path.read_text()))))] == [SETTLES]


PURE_FILES = [
    path
    for path in FILES
    if _name(path).startswith(PURE) and not _name(path).startswith(READY) and _name(path) not in SHELLS
]


@pytest.mark.parametrize("path", PURE_FILES, ids=_name)
def test_pure_files_touch_no_clock_chance_or_device(path: Path) -> None:
    """Values and judgements import nothing that could make the same call give another result, and no shell."""
    modules = _imports(path)
    assert not {module.split(".")[0] for module in modules} & IMPURE
    is_facade = path.name == "__init__.py"
    assert is_facade or not {_name(file) for module in modules if (file := _file(module))} & SHELLS


def test_shells_are_there_and_are_none_without_a_reason() -> None:
    """Each shell exists, and imports what no pure file may."""
    for name in SHELLS:
        assert {module.split(".")[0] for module in _imports(PACKAGE / name)} & IMPURE, name


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=_name)
def test_init_files_only_re_export(path: Path) -> None:
    """A package's __init__ holds a docstring, imports and ``__all__``; the root's quietens the logger too."""
    for node in ast.parse(path.read_text()).body:
        text = ast.unparse(node)
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_logger = "NullHandler" in text
        is_all = text.startswith("__all__ =")
        assert isinstance(node, ast.Import | ast.ImportFrom) or is_docstring or is_logger or is_all, text


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_and_functions_stay_small(path: Path) -> None:
    """A file is one noun and a function fits a screen."""
    text = path.read_text()
    assert text.count("\n") <= LINES_MAX_OF.get(_name(path), LINES_MAX)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            body = node.body[1] if docstring and len(node.body) > 1 else first
            assert node.end_lineno is not None
            assert node.end_lineno - body.lineno < FUNCTION_LINES_MAX, f"{node.name} is too long"


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_a_file_of_tests_is_one_topic_and_a_test_says_what_it_shows(path: Path) -> None:
    """Files of tests stay small, and each test's docstring is one sentence."""
    text = path.read_text()
    assert text.count("\n") < TEST_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            docstring = ast.get_docstring(node) or ""
            assert re.fullmatch(r"(?:(?![.!?] [A-Z])[^\n])+\.", docstring), f"{node.name}: {docstring}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_nothing_left_over(path: Path) -> None:
    """No markers of unfinished work, no pickles, no evaluation of text, no blocking sleep."""
    text = path.read_text()
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)
    assert not re.search(r"\b(pickle|eval|exec)\(|import pickle|time\.sleep", text)


def test_all_names_what_is_public() -> None:
    """``__all__`` names exactly what the root package re-exports, each once."""
    assert len(tai_state.__all__) == len(set(tai_state.__all__))
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    public = {name for name in vars(tai_state) if not name.startswith(("_", "@"))} - rooms - {"logging"}
    assert set(tai_state.__all__) == public


def test_importing_the_package_loads_no_command_line_and_no_optional_driver() -> None:
    """``import tai_state`` is light: neither typer, rich nor trio come with it."""
    code = "import sys, tai_state; print(sorted({'typer', 'rich', 'trio', 'asyncio.runners'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "typer" not in done.stdout
    assert "rich" not in done.stdout
    assert "trio" not in done.stdout
