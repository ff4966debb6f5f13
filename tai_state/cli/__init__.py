"""The command line: ``tai-state COMMAND``."""

from tai_state.cli.program import main as main
