"""Processes of tests: none of them outlives its block."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def started(command: Sequence[Any], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process, killed at the end of the block where it still runs, so that a test that fails leaves none."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()
