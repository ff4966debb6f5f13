"""A file that appears under its name only once it is whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread


@asynccontextmanager
async def whole_file(path: Path) -> AsyncGenerator[Path, None]:
    """A path beside the given one. At the end of the block, the file written there is moved to the given path.

    Each block has a path of its own, so several may write the same file at the same time: the last one to end counts.
    If a block fails, its file is removed, and the file of before stays as it is.

    Raises:
        OSError: the file cannot be synced or moved.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        await anyio.to_thread.run_sync(_move, partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _move(partial: Path, path: Path) -> None:
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
