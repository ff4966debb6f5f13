"""Features with each other, in an order left to chance, for some minutes; see ``tests/support/features.py``."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from pathlib import Path

from crew import Crew
from report import Section

sys.path.append(str(Path(__file__).parents[1]))
from hypothesis import seed as seeded
from support.features import MACHINES, explore

RUNS, STEPS = 50, 40


def prove(crew: Crew, *, kind: str, minutes: float, seed: int) -> Section:
    """Run the machine of one engine, again and again.

    Args:
        crew: is not needed; all proofs are called alike.
        kind: of the machine.
        minutes: how long.
        seed: all that is random follows from it.
    """
    del crew
    section = Section(f"features ({kind})")
    started = time.monotonic()
    told: Counter[str] = Counter()
    machine = type(kind, (MACHINES[kind],), {"told": told})
    logging.disable(logging.ERROR)
    while not section.failures and time.monotonic() - started < minutes * 60:
        seeded(f"{seed} {section.again}")(machine)
        section.again += 1
        try:
            explore(machine, RUNS, STEPS)
        except Exception as error:  # noqa: BLE001 - whatever comes out of it is a finding
            section.failures.append("\n".join([repr(error), *getattr(error, "__notes__", ())]))
    section.runs = told["run"]
    section.acknowledged, section.refused, section.unknown = (
        told["acknowledged"] + told["at once"], told["refused"] + told["failed"], told["unknown"],
    )  # fmt: skip
    section.operations = section.acknowledged + section.refused + section.unknown
    section.hit.update({each: told[each] for each in told if each != "run"})
    section.seconds = time.monotonic() - started
    print(section.name, dict(told), flush=True)
    return section
