"""What a check of stored machines reports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import msgspec

LISTED_MAX: Final = 1_000
"""How many findings a report lists."""


class MachineFinding(msgspec.Struct, frozen=True):
    """What a check found.

    Attributes:
        path: the path of the machine's state, or of a damaged document.
        version: the version of the event or state that it is about; 0 if it is about none.
        kind: ``illegal``, ``past``, ``unknown``, ``unchecked``, ``merged``, ``stranded``, ``timer`` or ``corrupt``; see
            :class:`MachinesReport`.
        message: what it is.
    """

    path: str
    version: int
    kind: str
    message: str


class MachinesReport(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`check_machines` found. It counts all, and lists the first 1,000 findings.

    Attributes:
        machines: how many machines were checked: states that hold one, or held one.
        steps: how many steps their definitions allow.
        forced: how many steps were forced.
        migrated: how many steps were migrations.
        merged: how many steps were those of a merge; each is a finding of the kind ``merged``.
        illegal: how many events no definition allows: steps that it refuses (``illegal``), writes past the machine
            (``past``), and states that it does not know (``unknown``).
        unchecked: how many steps could not be judged: because their definition is not at hand, which is one finding for
            each definition, or because what is stored does not fit its models (``unchecked``).
        stranded: how many live machines the newest definition strands (``stranded``).
        timers_moved: how many live machines have a time-out that would be due at another time under it (``timer``).
        corrupt: how many documents are damaged or missing (``corrupt``); what follows from them is not judged.
        findings: the findings, at most 1,000.
    """

    machines: int = 0
    steps: int = 0
    forced: int = 0
    migrated: int = 0
    merged: int = 0
    illegal: int = 0
    unchecked: int = 0
    stranded: int = 0
    timers_moved: int = 0
    corrupt: int = 0
    findings: tuple[MachineFinding, ...] = ()

    @property
    def consistent(self) -> bool:
        """Whether every step is one that its definition allows, and no live machine is stranded.

        Forced, merged and migrated steps are allowed, and time-outs may move.
        """
        return not (self.illegal or self.unchecked or self.stranded or self.corrupt)


CheckProgress: TypeAlias = Callable[[MachinesReport], Awaitable[None]]
"""Is told what a check has found so far, after each machine."""
