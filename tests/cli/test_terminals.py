"""What is printed suits every terminal, whatever is stored."""

from __future__ import annotations

import pytest

from ..support.filled import HOSTILE
from ..support.program import Program


def _is_safe(text: str) -> bool:
    return all(char == "\n" or char.isprintable() for char in text)


@pytest.mark.parametrize("arguments", [["ls", "hostile"], ["history", "hostile", HOSTILE]])
def test_stored_text_cannot_drive_a_terminal(there: Program, arguments: list[str]) -> None:
    """Control characters in ids, actions and data come out escaped on a terminal."""
    shown = there.on_terminal(*arguments, columns=200)
    assert shown.code == 0
    assert _is_safe(shown.out)
    assert "\\u001b[31mred\\u009b2J" in shown.out


def test_stored_text_stays_on_its_line(there: Program) -> None:
    """Control characters come out escaped when piped, so that each row is one line; in JSON they are exact."""
    piped = there("ls", "hostile")
    assert _is_safe(piped.out)
    assert len(piped.out.splitlines()) == 2
    exact = there("history", "hostile", HOSTILE, "--json")
    assert _is_safe(exact.out)
    [event] = exact.json()
    assert (event["state_id"], event["action"], event["to_state"]) == (HOSTILE, HOSTILE, {HOSTILE: HOSTILE})


def test_an_error_cannot_drive_a_terminal_either(there: Program) -> None:
    """Control characters that a user pastes come back escaped, on one line."""
    ended = there("show", HOSTILE, "x\n\x1b[2J")
    assert ended.code == 1
    assert _is_safe(ended.err)
    assert ended.err.count("\n") == 1
    assert there("show", HOSTILE, "x", "--json").error(1)["type"] == "StateNotFound"
    assert _is_safe(there("frob\x1b[2J\n\u202e").err)


def test_tables_hold_everything(there: Program) -> None:
    """On a terminal of 80 columns a table wraps, and no part of a cell is cut off; a time stays in one piece."""
    shown = there.on_terminal("ls", "a/b")
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "…" not in shown.out
    assert shown.out.count("word") == 40
    assert "".join(shown.out.split()).count("e" * 20) >= 1
    assert shown.out.count("e") >= 90
    assert there.on_terminal("history", "bank", "alice").out.count("2026-03-01T09:00:00.000000Z") == 1


def test_piped_tables_have_a_line_for_each_row(there: Program) -> None:
    """Piped, each row is one line that holds all of its cells, however wide the terminal is said to be."""
    piped = Program(there.folder, COLUMNS="20")("ls", "a/b").out.splitlines()
    assert len(piped) == 2
    assert "word " * 40 + "e" * 90 + "nd" in piped[1]


def test_no_escape_codes(there: Program) -> None:
    """Output is plain text, whatever the environment says about colours."""
    assert "\x1b" not in Program(there.folder, NO_COLOR="1").on_terminal("stats").out
    assert "\x1b" not in Program(there.folder, TERM="xterm-256color").on_terminal("ls", "a/b").out
    assert "\x1b" not in Program(there.folder, FORCE_COLOR="1")("stats").out


def test_any_encoding_of_the_terminal(there: Program) -> None:
    """Where the terminal's encoding lacks a character it is shown escaped; JSON is UTF-8 all the same."""
    narrow = Program(there.folder, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert "../Zo\\xeb" in narrow("ls", "a/b").out
    assert narrow("ls", "a/b", "--json").json()[0]["state_id"] == "../Zoë"
    assert narrow("import", "--help").code == 0
