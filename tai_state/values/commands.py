"""Commands that an error or a report advises: each can be pasted into a shell, whatever the name in it is."""

from __future__ import annotations

import shlex


def command(name: str, argument: str, *options: str) -> str:
    """A command of the command line about one resource or governor, in backticks.

    The argument is quoted for a shell, and not taken for an option.
    """
    words = [*options, "--", argument] if argument.startswith("-") else [argument, *options]
    return f"`tai-state {shlex.join([name, *words])}`"
