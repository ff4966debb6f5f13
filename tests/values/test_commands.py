"""Commands that are advised can be pasted into a shell."""

from __future__ import annotations

import shlex

import pytest

from tai_state.values.commands import command


@pytest.mark.parametrize("name", ["job", "a b", "it's $HOME", "x`id`", "\\", "a\nb", "--yes", "-", "; false"])
def test_a_command_names_what_it_is_about(name: str):
    """Its words are those that were meant, and a name is an argument, also if it looks like an option."""
    shown = command("recover", name, "--end-restore")
    assert (shown[0], shown[-1]) == ("`", "`")
    words = shlex.split(shown[1:-1])
    assert words[:2] == ["tai-state", "recover"]
    assert words[2:] == (["--end-restore", "--", name] if name.startswith("-") else [name, "--end-restore"])
