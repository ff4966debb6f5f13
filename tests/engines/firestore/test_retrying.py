"""Trying again: what passes, until the time is over, and never a commit that may have been applied."""

from __future__ import annotations

import pytest

from tai_state.engines.firestore import retrying
from tai_state.errors import InvalidData, StoreTimeout, StoreUnavailable, StoreUnusable

pytestmark = pytest.mark.anyio

PASSES = StoreUnavailable("read", "UNAVAILABLE")


@pytest.fixture
def anyio_backend() -> str:
    """Firestore's engine runs under asyncio only."""
    return "asyncio"


class Calls:
    """A call that fails so often.

    Attributes:
        seconds: how long each try was given.
    """

    def __init__(self, *failures: Exception) -> None:
        self.seconds: list[float] = []
        self._failures = list(failures)

    async def __call__(self, seconds: float) -> str:
        """The next failure, or the end."""
        self.seconds.append(seconds)
        if self._failures:
            raise self._failures.pop(0)
        return "done"


async def test_what_passes_is_tried_again_in_the_time_that_is_left():
    """Each try is given what the tries and pauses before it have left of the time."""
    calls = Calls(PASSES, StoreTimeout("read", "DEADLINE_EXCEEDED"))
    assert await retrying.tried(calls, 15.0) == "done"
    first, second, third = calls.seconds
    assert first == 15.0
    assert first - second >= 0.1
    assert second - third >= 0.2


@pytest.mark.parametrize(
    "failure",
    [StoreUnusable("read", "UNIMPLEMENTED"), StoreUnavailable("commit", "UNAVAILABLE", "", True), InvalidData("no")],
    ids=["lasts", "unknown", "refused"],
)
async def test_what_is_not_tried_again(failure: Exception):
    """An error that lasts, an unknown outcome and a refused request are raised at once."""
    calls = Calls(failure)
    with pytest.raises(type(failure)) as raised:
        await retrying.tried(calls, 15.0)
    assert raised.value is failure
    assert len(calls.seconds) == 1


async def test_the_time_is_over(monkeypatch: pytest.MonkeyPatch):
    """If the next pause would end after the time, the last error is raised without it."""
    monkeypatch.setattr(retrying, "pause_seconds", lambda failures: 0.0 if failures < 3 else 15.0)
    last = StoreUnavailable("read", "ABORTED")
    calls = Calls(PASSES, PASSES, last)
    with pytest.raises(StoreUnavailable) as raised:
        await retrying.tried(calls, 15.0)
    assert raised.value is last
    assert len(calls.seconds) == 3


def test_pauses_grow():
    """The shortest pause doubles with each failure, up to five seconds; the longest is twice the shortest."""
    bounds = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    for failures, bound in enumerate(bounds, 1):
        assert all(bound <= retrying.pause_seconds(failures) <= 2 * bound for _ in range(100))
    assert retrying.pause_seconds(10_000) <= 10.0
