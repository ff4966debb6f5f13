"""The command line: ``tai-state COMMAND``."""

from tai_state.cli.app import main as main
