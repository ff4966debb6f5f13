"""``python -m tai_state``: the command line."""

from tai_state.cli.program import main

if __name__ == "__main__":
    main()
