"""Stored machines of random definitions: no way leads into a state that the rules forbid, whatever happens to them."""

from __future__ import annotations

import logging
import os
from collections import Counter

import pytest
from hypothesis import Phase, seed

from ..support.features import explore
from ..support.machine_walks import WALKS, Walks

RUNS, STEPS = (400, 50) if os.environ.get("TAI_STATE_PROOF") == "1" else (25, 25)
MORE_MAX = 8
WANTED = (
    "step",
    "event",
    "force",
    "delete",
    "begin",
    "refused",
    "again",
    "at once",
    "together",
    "unknown",
    "forked",
    "synced",
    "joined",
    "objected",
    "mended",
)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What is logged of so many faults is not for reading."""
    caplog.set_level(logging.CRITICAL, "tai_state")


def of_its_own(kind: str) -> type[Walks]:
    """A walk that counts for one test alone."""
    return type(kind, (WALKS[kind],), {"told": Counter()})


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", WALKS)
def test_no_way_leads_where_the_rules_do_not(kind: str, pytestconfig: pytest.Config):
    """Steps, forced steps, transactions, faults, restarts, forks, backups and merges leave only what rules allow."""
    machine = of_its_own(kind)
    wanted = (*WANTED, "put back") if kind == "sqlite" else WANTED
    for more in range(MORE_MAX):
        seed(f"{pytestconfig.getoption('--hypothesis-seed')} {more}")(machine)
        explore(machine, RUNS, STEPS, [Phase.generate, Phase.shrink])
        if all(machine.told[each] for each in wanted):
            break
    print(dict(machine.told))
    assert [each for each in wanted if not machine.told[each]] == []
