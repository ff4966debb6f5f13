"""Commands that an error or a report advises: each can be pasted into a shell, whatever the names in it are."""

from __future__ import annotations

import shlex


def command(name: str, *arguments: str) -> str:
    """A command of the command line, in backticks; what the shell or the command would misread is quoted."""
    ends = ["--"] if any(each.startswith("-") for each in arguments) else []
    return f"`tai-state {shlex.join([name, *ends, *arguments])}`"
