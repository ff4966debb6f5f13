"""The seal of a document: a number beside its fields that changes with each write, and shows whether they were edited.

It consists of a random part, since Firestore ignores a write that changes nothing, and a checksum of the document's
path and fields. In documents of format 1 the number is not negative, and contains no checksum.
"""

from __future__ import annotations

import zlib
from typing import Final

_SIGN: Final = -(2**63)
_CHECKSUM_BITS: Final = 32
_CHECKSUM: Final = 2**_CHECKSUM_BITS - 1
NONCE_BITS: Final = 63 - _CHECKSUM_BITS


def seal(path: str, canonical: bytes, nonce: int) -> int:
    """The seal of a document.

    Args:
        path: the document's path.
        canonical: the fields as JSON with sorted keys.
        nonce: 31 random bits.
    """
    return _SIGN | nonce << _CHECKSUM_BITS | zlib.crc32(canonical, zlib.crc32(path.encode(), nonce))


def fits(sealed: int, path: str, canonical: bytes) -> bool:
    """Whether a document matches its seal; one of format 1 always does."""
    if sealed >= 0:
        return True
    return sealed == seal(path, canonical, (sealed - _SIGN) >> _CHECKSUM_BITS)
