"""The documentation is true: what it shows runs, what it links to is there, what it fixes is so in the code."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

import tai_state

from ..support.pages import _FENCE, DOCS, PAGES, ROOT, Block, blocks, is_there
from ..support.program import COMMANDS

GUIDE = DOCS / "guide"
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
_CONSOLE_PROGRAMS = {"cat", "head", "ls", "tai-state"}
"""What a console block may call; blocks that call others are of the language ``sh``, which is not run."""


def fits(expected: str, printed: str) -> bool:
    """Whether output is as shown: ``…`` stands for anything in a line, alone on a line for any lines."""
    pattern = ""
    for line in expected.rstrip("\n").split("\n"):
        if line.strip() == "…":
            pattern += r"(?:.*\n)*"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r"\n"
    lines = [line.rstrip() for line in printed.rstrip("\n").split("\n")]
    return re.fullmatch(pattern, "\n".join(lines) + "\n") is not None


def run_python(block: Block, namespace: dict[str, Any], backend: str) -> None:
    """Run a block, await it where it awaits, compare what it prints."""
    if block.file:
        Path(block.file).write_text(block.text)
        return
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if code.co_flags & inspect.CO_COROUTINE:

            async def awaited() -> None:
                await eval(code, namespace)

            anyio.run(awaited, backend=backend)
        else:
            exec(code, namespace)
    if block.output is not None:
        assert fits(block.output, printed.getvalue()), f"line {block.line} printed:\n{printed.getvalue()}"


def run_console(block: Block) -> None:
    """Run each ``$`` line, and compare what it prints with the lines up to the next one."""
    commands: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], []))
        elif commands[-1][0].endswith("\\"):
            commands[-1] = (commands[-1][0][:-1] + line.strip(), [])
        else:
            commands[-1][1].append(line)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "120", "TERM": "dumb"}
    environment.pop("TAI_STATE_STORE", None)
    for command, expected in commands:
        assert shlex.split(command)[0] in _CONSOLE_PROGRAMS, f"{command!r} is for a block of the language sh"
        done = subprocess.run(
            ["sh", "-c", command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\nended with {done.returncode}:\n{done.stdout}"
        if expected:
            assert fits("\n".join(expected), done.stdout), f"$ {command}\nprinted:\n{done.stdout}"


@pytest.fixture
def namespace(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """The namespace of one page's blocks, run in a folder of their own, from where their files are imported."""
    module = types.ModuleType("page")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "page", module)
    before = set(sys.modules)
    yield module.__dict__
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == tmp_path:
            del sys.modules[name]


def _runs(page: Path) -> bool:
    return any(block.language in {"python", "console"} for block in blocks(page))


@pytest.mark.parametrize("page", [each for each in PAGES if _runs(each)], ids=lambda page: page.name)
def test_what_a_page_shows_runs(page: Path, anyio_backend: str, namespace: dict[str, Any]) -> None:
    """The Python blocks of a page run on both event loops, its console blocks run too, and print what the page says."""
    for block in blocks(page):
        if block.language == "python":
            run_python(block, namespace, anyio_backend)
        elif block.language == "console" and anyio_backend == "asyncio":
            run_console(block)


@pytest.mark.parametrize(
    "page", [each for each in PAGES if each.parent in (ROOT, DOCS, GUIDE)], ids=lambda page: page.name
)
def test_what_a_page_shows_can_be_pasted(page: Path) -> None:
    """An empty line ends what is indented at the top level: Python's prompt needs it before the next statement."""
    for block in blocks(page):
        if block.language == "python" and not block.file:
            body, lines = ast.parse(block.text).body, block.text.splitlines()
            for first, second in pairwise(body):
                end = first.end_lineno or 0
                is_indented = hasattr(first, "body") and lines[end - 1].startswith(" ")
                assert not is_indented or not lines[end], f"line {block.line + second.lineno - 1}"


def test_a_wrong_output_is_seen() -> None:
    """The comparison of outputs lets ``…`` pass, and nothing else that differs."""
    assert fits("a … c\n…\nend", "a b c\nx\ny\nend\n")
    assert fits("…\nend", "end\n")
    assert not fits("a … c", "a b d\n")
    assert not fits("a", "a\nb\n")
    assert not fits("a.c", "abc\n")


def _anchors(page: Path) -> set[str]:
    text = _FENCE.sub("", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading["text"].lower()).replace(" ", "-") for heading in _HEADING.finditer(text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file of the repository, and a heading in it where it names one."""
    for link in _LINK.finditer(_FENCE.sub("", page.read_text())):
        target, _, anchor = link["target"].partition("#")
        if "://" in target:
            continue
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{link['target']} is not there"
        assert ROOT in found.parents, f"{link['target']} is outside"
        assert not anchor or anchor in _anchors(found), f"{link['target']} names no heading of {found.name}"


def test_the_front_page_maps_all_pages() -> None:
    """``docs/index.md`` links to every other page of the documentation."""
    index = (DOCS / "index.md").read_text()
    linked = {(DOCS / link["target"].partition("#")[0]).resolve() for link in _LINK.finditer(index)}
    decisions = set(DOCS.glob("decisions/*.md"))
    assert {*DOCS.rglob("*.md")} - decisions - {DOCS / "index.md"} <= linked
    assert DOCS / "decisions" in linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_place_on_somebodys_disk(page: Path) -> None:
    """A page holds no absolute path of the machine it was written on."""
    assert not re.search(r"(?<![\w.])/(?:home|opt|root|tmp|Users|work)/", page.read_text())


def test_every_public_name_is_documented() -> None:
    """Each name of ``tai_state.__all__`` stands in a page, marked as code."""
    text = "\n".join(page.read_text() for page in PAGES if page.name != "CHANGELOG.md")
    assert [name for name in tai_state.__all__ if not re.search(rf"`[^`\n]*\b{name}\b|\b{name}\(", text)] == []


def test_every_command_is_documented() -> None:
    """The guide's list of commands is the program's."""
    table = (GUIDE / "command-line.md").read_text().partition("## Commands")[2]
    assert set(re.findall(r"^\| `(\w+)", table, re.MULTILINE)) == set(COMMANDS)


def test_operating_names_errors_and_commands_that_are_there() -> None:
    """The errors, numbers and commands that the page for operators names are the library's."""
    text = (DOCS / "operating.md").read_text()
    named = re.findall(r"`([A-Z][a-z]\w+(?:\.\w+)?)`", text)
    assert len(named) > 20
    assert [name for name in named if not is_there(f"tai_state.{name}")] == []
    assert set(re.findall(r"(?:`|\$ |\n)tai-state ([a-z]+)", text)) <= set(COMMANDS)


_WHO = tai_state.ChangeMetadata("test", "the guide's table")
_WORDS = {"NO_STATE": tai_state.NO_STATE, "EXISTS": tai_state.EXISTS, "ANY": tai_state.ANY}


async def _outcome(store: tai_state.StateStore, state_id: str, expected: Any, version: int) -> str:
    """What saving a state comes to, in the words of the guide's table."""
    try:
        saved = await store.save_state("g", state_id, {"n": 1}, _WHO, expected=expected)
    except tai_state.TaiStateError as error:
        return f"`{type(error).__name__}`"
    assert saved.version == version + 1
    return "writes version 1" if version == 0 else "writes v + 1"


@pytest.mark.anyio
async def test_the_table_of_expected_versions_is_true() -> None:
    """Each cell of the guide's table of ``expected`` is what a save does, and deletes and logs need a live state."""
    table = (GUIDE / "first-steps.md").read_text().partition("| `expected` |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert len(rows) == 6
    async with tai_state.open_store("memory://") as store:
        for number, (said, *cells) in enumerate(rows):
            for version, cell in zip((0, 2, 2), cells, strict=True):
                deleted = cell is cells[2]
                state_id = f"{number}-{version}-{deleted}"
                if version:
                    await store.save_state("g", state_id, {}, _WHO)
                    change = store.delete_state if deleted else store.log_event
                    await change("g", state_id, *([] if deleted else ["log"]), _WHO, expected=1)
                name = said.split("`")[1] if "`" in said else said
                expected = _WORDS.get(name, {"0": 0, "v": 2, "another number": 1}.get(name))
                if version == 0 or deleted:
                    for change, words in ((store.delete_state, []), (store.log_event, ["log"])):
                        with pytest.raises((tai_state.StateNotFound, tai_state.VersionConflict)) as refused:
                            await change("g", state_id, *words, _WHO, expected=expected)
                        assert refused.type is tai_state.StateNotFound or not cell.startswith("writes")
                assert await _outcome(store, state_id, expected, version) == cell, (said, version, deleted)


def test_the_glossary_has_each_word_once() -> None:
    """Every entry of the glossary is there once, in order within its part, with a meaning."""
    text = (DOCS / "glossary.md").read_text()
    words = re.findall(r"^- \*\*(.+?)\*\*: \S", text, re.MULTILINE)
    assert len(words) == len(re.findall(r"^- ", text, re.MULTILINE))
    assert len(words) == len(set(words))
    for part in text.split("\n## ")[1:]:
        entries = re.findall(r"^- \*\*(.+?)\*\*", part, re.MULTILINE)
        assert entries == sorted(entries)


def test_the_glossarys_words_are_the_codes() -> None:
    """Every word of the glossary is one that the code uses."""
    package = Path(tai_state.__file__).parent
    code = "\n".join(path.read_text() for path in package.rglob("*.py")).lower()
    words = re.findall(r"^- \*\*(.+?)\*\*", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    unused = [word for word in words if not re.search(word.lower().replace(" ", "[ _-]?"), code)]
    assert unused == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_the_library_exist(page: Path) -> None:
    """Whatever a page quotes as ``tai_state.something`` is there, so nothing is called built that is not."""
    named = re.findall(r"`(tai_state(?:\.\w+)+(?:\(\w+=\))?)`", page.read_text())
    assert [name for name in named if name != "tai_state.db" and not is_there(name)] == []


def test_missing_names_are_seen() -> None:
    """The look-up of names finds fields, functions and parameters, and tells those that are not there."""
    assert is_there("tai_state.VersionConflict.expected")
    assert is_there("tai_state.streams.layout.Layout.states")
    assert not is_there("tai_state.EtcdStore")
    assert not is_there("tai_state.StateSnapshot.touch")
    assert is_there("tai_state.open_store(root=)")
    assert not is_there("tai_state.open_store(roots=)")


def test_decisions_are_short_and_whole() -> None:
    """Decisions are numbered without a gap, have status and date, context, options and outcome, and are short."""
    pages = sorted((DOCS / "decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        lines = page.read_text().splitlines()
        assert lines[0].startswith(f"# {page.name[:4]}: ")
        assert re.fullmatch(r"Status: \w+\. Date: \d{4}-\d\d-\d\d\.", lines[2])
        assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Options", "## Outcome"]
        assert len(lines) <= 40


def test_contributing_lists_the_commands_of_the_noxfile() -> None:
    """The table of commands is that of ``noxfile.py``."""
    sessions = set(re.findall(r"^@nox\.session(?:\(.*\))?\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    listed = re.findall(r"^\| `nox -s (\w+)`", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert set(listed) == sessions


def test_the_architecture_names_what_is_there() -> None:
    """Every file and every name of the code that the architecture mentions exists."""
    text = (DOCS / "architecture.md").read_text()
    package = Path(tai_state.__file__).parent
    files = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}
    named = {name.removeprefix("../").removeprefix("tai_state/") for name in re.findall(r"[\w./]+\.py\b", text)}
    missing = [name for name in named if not any(f"/{each}".endswith(f"/{name}") for each in files)]
    assert [name for name in missing if not (ROOT / name).exists()] == []
    code = "\n".join(files.values())
    spans = re.findall(r"`([\w.]+)`", _FENCE.sub("", text))
    drawn = re.findall(r"\b(?:[A-Z]\w+\.\w+|_\w+)", "".join(block.text for block in blocks(DOCS / "architecture.md")))
    words = {word for name in [*spans, *drawn] if not name.endswith(".py") for word in name.split(".") if word}
    assert [word for word in words if not re.search(rf"\b{word}\b", code) and word != "n"] == []
