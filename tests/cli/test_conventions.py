"""What all commands have in common: help, the store's place, exit codes, errors."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tai_state.cli import inspecting

from ..support.program import COMMANDS, Ended, Inside, Program


def test_every_argument_and_option_is_explained() -> None:
    """The help of each command says what it does, and what each of its arguments and options means."""
    assert set(COMMANDS) == {
        *(
            "backup",
            "cleanup",
            "conflicts",
            "demo",
            "diff",
            "doctor",
            "emulator",
            "export",
            "history",
            "import",
            "indexes",
        ),
        *(
            "locks",
            "ls",
            "machines",
            "recover",
            "restore",
            "retire",
            "serve",
            "show",
            "snapshot",
            "stats",
            "sync",
            "timers",
            "unlock",
            "verify",
        ),
    }
    machines = COMMANDS["machines"]
    assert machines.help
    assert set(machines.commands) == {"check", "diagram", "history", "migrate", "show"}
    single = {name: command for name, command in COMMANDS.items() if command is not machines}
    for name, command in {**single, **{f"machines {name}": each for name, each in machines.commands.items()}}.items():
        assert command.help, name
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options
        assert "--store" in options or name in {"demo", "emulator", "sync"}
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"


def test_help_and_version(there: Program) -> None:
    """The help goes to stdout on demand and to stderr where no command was given, which is a usage error."""
    asked, bare = there("--help"), there()
    assert (asked.code, asked.err) == (0, "")
    assert "Commands:" in asked.out
    assert "..." not in asked.out.partition("Commands:")[2]
    assert there("-h") == asked
    assert (bare.code, bare.out) == (2, "")
    assert bare.err.rstrip() == asked.out.rstrip()
    of_group, alone = there("machines", "--help"), there("machines")
    assert (of_group.code, of_group.err, alone.code, alone.out) == (0, "", 2, "")
    assert "..." not in of_group.out.partition("Commands:")[2]
    assert alone.err.rstrip() == of_group.out.rstrip()
    shown = there("import", "--help")
    assert (shown.code, shown.err) == (0, "")
    assert "--machine" in shown.out
    assert there("--version").out.startswith("tai-state ")
    assert there("ls", "-h").out.startswith("Usage: tai-state ls ")
    assert "options follow the command" in there("--json", "ls").error(2)["message"]


@pytest.mark.parametrize("arguments", [["history", "bank", "alice"], ["show", "bank", "nobody"]], ids=" ".join)
def test_the_package_runs_as_a_module(there: Program, arguments: list[str]) -> None:
    """``python -m tai_state`` prints what the script prints, and ends with its exit code."""
    module = Program(there.folder, command=(sys.executable, "-m", "tai_state"))
    assert module(*arguments) == there(*arguments)


READERS = [
    ["ls"],
    ["ls", "g"],
    ["show", "g", "s"],
    ["show", "g", "s", "--version", "1"],
    ["history", "g", "s"],
    ["diff", "g", "s", "1", "2"],
    ["stats"],
    ["timers"],
    ["verify"],
    ["recover"],
    ["snapshot", "g", "s"],
    ["cleanup", "g", "--yes"],
    ["export", "g", "x.jsonl"],
    ["backup", "x.db"],
    ["machines", "check", "--app", "tai_state.machines.ready:SYSTEM"],
    ["machines", "show", "g", "s", "--app", "tai_state.machines.ready:SYSTEM"],
    ["machines", "history", "g", "s"],
    ["machines", "diagram", "g", "s", "--app", "tai_state.machines.ready:SYSTEM"],
    ["machines", "migrate", "--map", "Old=Ready", "--yes", "--app", "tai_state.machines.ready:SYSTEM"],
]


def test_no_command_but_import_and_restore_makes_a_store(tmp_path: Path) -> None:
    """A mistyped address ends with 1, says so, and leaves no file behind."""
    program = Program(tmp_path)
    with ExitStack() as running:
        options = ("--store", "sqlite:///no.db", "--json")
        processes = [running.enter_context(program.started(*command, *options)) for command in READERS]
        for command, process in zip(READERS, processes, strict=True):
            out, err = process.communicate()
            error = Ended(process.returncode, out.decode(), err.decode()).error(1)
            assert error["type"] == "StoreNotFound", command
            assert "no.db" in error["message"]
    assert not list(tmp_path.iterdir())


def test_where_the_store_is(program: Program) -> None:
    """``--store`` comes before ``TAI_STATE_STORE``, which comes before ``tai-state.db`` in the working directory."""
    elsewhere = Program(program.folder, TAI_STATE_STORE="sqlite:///elsewhere.db")
    assert elsewhere("ls", "--json").error(1)["path"] == str(program.folder / "elsewhere.db")
    assert len(elsewhere("ls", "--store", "sqlite:///tai-state.db", "--json").json()) == 4
    assert len(program("ls", "--json").json()) == 4


@pytest.mark.parametrize(
    ("code", "kind", "arguments"),
    [
        (1, "GovernorNotFound", ["ls", "nobody"]),
        (1, "GovernorNotFound", ["verify", "nobody"]),
        (1, "StateNotFound", ["show", "bank", "alice", "--version", "6"]),
        (2, "UsageError", ["frobnicate"]),
        (2, "UsageError", ["show", "bank"]),
        (2, "UsageError", ["show", "bank", "alice", "--version", "0"]),
        (2, "UsageError", ["show", "bank", "alice", "--version", "1", "--at", "2026-01-01"]),
        (2, "UsageError", ["ls", "--frob"]),
        (2, "InvalidData", ["show", "bank", "alice", "--at", "yesterday"]),
        (2, "UnknownStore", ["ls", "--store", "mysql://x"]),
        (4, "CorruptDocument", ["ls", "--store", "sqlite:///shop.py"]),
        (5, "StoreUnusable", ["ls", "--store", "sqlite:///."]),
    ],
)
def test_exit_codes(inside: Inside, code: int, kind: str, arguments: list[str]) -> None:
    """Each kind of failure has its code, and with ``--json`` one JSON error on stderr and nothing on stdout."""
    assert inside(*arguments, "--json").error(code)["type"] == kind


def test_errors_for_people(there: Program) -> None:
    """Without ``--json`` an error is one line on stderr; a usage error leads to the help."""
    missing = there("show", "bank", "carol")
    assert missing == Ended(1, "", "tai-state: there is no state at 'governors/bank/states/carol'\n")
    assert there("show", "bank") == Ended(2, "", "tai-state: Missing argument 'STATE' (see tai-state show --help)\n")


def test_the_unexpected_ends_with_70(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no command foresees is said in one line and ends with 70."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in the middle")

    monkeypatch.setattr(inspecting, "print_facts", fail)
    error = inside("stats", "--json").error(70)
    assert (error["type"], error["message"]) == (
        "ZeroDivisionError",
        "an unexpected ZeroDivisionError: in the middle",
    )
