"""The demonstration leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

from ..support.filled import fits
from ..support.program import Program


def test_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    """``demo --json`` has exactly the agreed keys, loses nothing, and leaves no file."""
    program = Program(tmp_path, TMPDIR=str(tmp_path))
    shown = program("demo", "--json").json()
    fits(shown, acknowledged=..., recovered=shown["acknowledged"], machines=8, consistent=True, seconds=...)
    assert shown["acknowledged"] >= 1_000
    assert shown["seconds"] > 0
    assert not list(tmp_path.iterdir())


def test_a_terminated_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGTERM ends it as Ctrl-C does, its writer too, and its folder is removed."""
    with Program(tmp_path, TMPDIR=str(tmp_path)).started("demo") as process:
        while not list(tmp_path.iterdir()):
            assert process.poll() is None
        process.terminate()
        _, err = process.communicate()
    assert process.returncode == 130
    assert err.endswith(b"tai-state: interrupted; the command can be run again\n")
    assert b"Traceback" not in err
    assert not list(tmp_path.iterdir())
