"""Marks: by which time which revision had been reached, for documents whose own sightings are forgotten."""

from __future__ import annotations

from bisect import bisect_left

MARKS_MAX = 64

_APART_SECONDS = 1.0


class Marks:
    """What is kept of forgotten sightings, in little memory.

    Revisions of a store only grow. So a document that now has no greater revision than another one had at some time was
    last written before that time. Marks lie a second apart at least, and farther apart the older they are.
    """

    def __init__(self) -> None:
        self._revisions: list[int] = []
        self._times: list[float] = []

    def note(self, revision: int, time: float) -> None:
        """Note that the revision had been reached by that time."""
        if self._revisions and revision <= self._revisions[-1]:
            return
        while self._times and (
            time <= self._times[-1] or (len(self._times) > 1 and time < self._times[-2] + _APART_SECONDS)
        ):
            self._revisions.pop()
            self._times.pop()
        self._revisions.append(revision)
        self._times.append(time)
        if len(self._times) > MARKS_MAX:
            least = self._least_needed()
            del self._revisions[least], self._times[least]

    def _least_needed(self) -> int:
        """The mark whose neighbours lie closest to each other, compared with their age."""
        times = self._times
        inner = range(1, len(times) - 1)
        return min(inner, key=lambda n: (times[n + 1] - times[n - 1]) / (times[-1] - times[n - 1]))

    def since(self, revision: int, now: float) -> float:
        """Since when at least a document that is at this revision now has been unchanged."""
        found = bisect_left(self._revisions, revision)
        return min(now, self._times[found]) if found < len(self._times) else now
