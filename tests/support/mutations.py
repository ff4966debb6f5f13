"""Mistakes made on purpose that more than one check must find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tai_state.engines.settling import _Course
from tai_state.errors import Unavailable

if TYPE_CHECKING:
    import pytest


def lost_answer_is_a_failure(patch: pytest.MonkeyPatch) -> None:
    """A lost answer is taken for a failure."""
    original = _Course.send

    async def send(self: Any, commit: Any) -> Any:
        verdict = await original(self, commit)
        failure = self._failure
        if verdict is None and isinstance(failure, Unavailable):
            raise type(failure)(failure.operation, failure.code, failure.what)
        return verdict

    patch.setattr(_Course, "send", send)
