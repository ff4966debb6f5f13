"""What was done, what was found, and what that shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Section:
    """The account of one kind of proof.

    Attributes:
        name: of the proof.
        runs: of the workload.
        operations: steps tried.
        acknowledged: steps the library said were done.
        refused: attempts it said had failed.
        unknown: attempts whose outcome it left open.
        again: runs made because a planned fault had not come.
        planned: faults planned, by kind.
        hit: faults that happened, by kind.
        images: disk images checked, no two the same.
        seconds: taken.
        failures: each as one line.
        minimum: faults or images below which the proof has done too little.
        details: lines to show beside the table.
        wanted: where a mistake was made on purpose: what must be among the failures.
    """

    name: str
    minimum: int = 1
    wanted: str = ""
    runs: int = 0
    operations: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    again: int = 0
    planned: Counter[str] = field(default_factory=Counter)
    hit: Counter[str] = field(default_factory=Counter)
    images: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    @property
    def trials(self) -> int:
        """Things that could have failed."""
        return self.images or self.hit.total()

    def complaints(self) -> list[str]:
        """The failures, and whatever makes the proof worth nothing."""
        if self.wanted:
            caught = any(self.wanted in each for each in self.failures)
            return [] if caught else [f"the mistake was not caught: no failure says {self.wanted!r}"]
        found = list(self.failures)
        found += [f"no planned fault of the kind {kind!r} was ever hit" for kind in self.planned if not self.hit[kind]]
        if self.trials < self.minimum:
            found.append(f"too little was done: {self.trials} trials, at least {self.minimum} are needed")
        return found

    def bound(self) -> str:
        """What no failure in so many trials says: a failure rate below 3/N, 19 times out of 20."""
        if self.wanted:
            return "caught" if not self.complaints() else "-"
        if self.failures or not self.trials:
            return "-"
        return f"< {300 / self.trials:.3g} %"

    def to_json(self) -> dict[str, Any]:
        """For files."""
        return {
            "proof": self.name,
            "runs": self.runs,
            "operations": self.operations,
            "acknowledged": self.acknowledged,
            "refused": self.refused,
            "unknown": self.unknown,
            "again": self.again,
            "faults_planned": dict(self.planned),
            "faults_hit": dict(self.hit),
            "images": self.images,
            "trials": self.trials,
            "failure_rate_95": self.bound(),
            "seconds": round(self.seconds, 1),
            "failures": self.complaints(),
        }


_COLUMNS = (
    "proof",
    "runs",
    "tried",
    "acked",
    "failed",
    "unknown",
    "planned",
    "hit",
    "images",
    "seconds",
    "95 %",
    "red",
)


def table(sections: list[Section]) -> str:
    """The sections as text, one a line."""
    rows = [_COLUMNS, *(_row(each) for each in sections)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _row(section: Section) -> tuple[str, ...]:
    counts = (section.runs, section.operations, section.acknowledged, section.refused, section.unknown)
    faults = (section.planned.total(), section.hit.total(), section.images)
    seconds = f"{section.seconds:.1f}"
    return (section.name, *map(str, counts + faults), seconds, section.bound(), str(len(section.complaints())))
