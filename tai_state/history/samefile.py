"""A file that is read more than once, and says the same each time."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tai_state.errors import InvalidData

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK_BYTES: Final = 1024 * 1024


class SameFile:
    """A file that is opened once, first to be checked and then to be used. So it does not matter what replaces it.

    If somebody writes into it meanwhile, reading that part again raises ``InvalidData``, and gives none of it.

    Args:
        path: the file.

    Attributes:
        path: as given.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self._file = path.open("rb")
        self._digests: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def from_start(self) -> io.BufferedReader:
        """Its bytes, from the beginning."""
        return io.BufferedReader(_Chunks(self), _CHUNK_BYTES)

    def chunk(self, number: int) -> bytes:
        """The bytes of a chunk, counted from 0: each as long as the others, except the last; empty after that.

        Raises:
            InvalidData: they are not what they were.
            OSError: they cannot be read.
        """
        self._file.seek(number * _CHUNK_BYTES)
        chunk = self._file.read(_CHUNK_BYTES)
        digest = sha256(chunk).digest()
        if number == len(self._digests):
            self._digests.append(digest)
        elif self._digests[number] != digest:
            raise InvalidData(f"{self.path} was changed while it was read: let nobody write to it, and try again")
        return chunk


class _Chunks(io.RawIOBase):
    """The chunks of a file as a stream.

    Args:
        file: the file.
    """

    def __init__(self, file: SameFile) -> None:
        self._file = file
        self._number = 0
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if not self._rest:
            self._rest = memoryview(self._file.chunk(self._number))
            self._number += 1
        room: Any = memoryview(buffer)
        size = min(len(room), len(self._rest))
        room[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
