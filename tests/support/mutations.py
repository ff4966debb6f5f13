"""Mistakes made on purpose that more than one check must find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tai_state.engines import settling
from tai_state.errors import Unavailable

if TYPE_CHECKING:
    import pytest


def lost_answer_is_a_failure(patch: pytest.MonkeyPatch) -> None:
    """A lost answer is taken for a failure."""
    original = settling._applied

    async def applied(waist: Any, commit: Any) -> Any:
        try:
            return await original(waist, commit)
        except Unavailable as error:
            raise type(error)(error.operation, error.code, error.what) from error

    patch.setattr(settling, "_applied", applied)
