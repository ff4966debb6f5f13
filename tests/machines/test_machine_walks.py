"""Stored machines of random definitions: no way leads into a state that the rules forbid, whatever happens to them."""

from __future__ import annotations

import logging
import os
from collections import Counter

import pytest
from hypothesis import Phase, seed

from tai_state.conflicts import machines as merging
from tai_state.machines import asking, envelope, judging, tables

from ..support.features import explore
from ..support.machine_walks import WALKS, Walks
from ..support.mistakes import Mistake, plant

IS_LONG = os.environ.get("TAI_STATE_PROOF") == "1"
RUNS = {"memory": 400, "sqlite": 200} if IS_LONG else {"memory": 20, "sqlite": 10}
STEPS = 50 if IS_LONG else 25
MORE_MAX = 8
EVERYWHERE = ("step", "event", "refused", "together", "at once", "forked", "synced", "joined")
WANTED = {
    "memory": (*EVERYWHERE, "force", "delete", "begin", "again", "failed", "objected", "mended"),
    "sqlite": (*EVERYWHERE, "put back"),
}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What is logged of so many faults is not for reading."""
    caplog.set_level(logging.CRITICAL, "tai_state")


def of_its_own(kind: str) -> type[Walks]:
    """A walk that counts for one test alone."""
    return type(kind, (WALKS[kind],), {"told": Counter()})


@pytest.mark.timeout(3_600 if IS_LONG else 900)
@pytest.mark.parametrize("kind", WALKS)
def test_no_way_leads_where_the_rules_do_not(kind: str, pytestconfig: pytest.Config):
    """Steps, forced steps, transactions, faults, restarts, forks, backups and merges leave only what rules allow."""
    walk = of_its_own(kind)
    for more in range(MORE_MAX):
        seed(f"{pytestconfig.getoption('--hypothesis-seed')} {more}")(walk)
        explore(walk, RUNS[kind], STEPS)
        if all(walk.told[each] for each in WANTED[kind]):
            break
    print(dict(walk.told))
    assert [each for each in WANTED[kind] if not walk.told[each]] == []


MISTAKES = (
    Mistake(
        "a step is not judged again after a conflict",
        asking,
        "if self._verdict is not None and self._verdict[0] is known.data:",
        "if self._verdict is not None:",
    ),
    Mistake(
        "no rule forbids",
        tables,
        "        if rule.is_forbidding:\n            for",
        "        if not rule:\n            for",
    ),
    Mistake("an epoch begins on the other steps", judging, "rule.advances_epoch", "(not rule.advances_epoch)"),
    Mistake(
        "an invariant is not asked", judging, "        if violation is not None:\n", "        if violation is True:\n"
    ),
    Mistake("a time-out is due too early", envelope, "rule.timeout_ms * 1000", "rule.timeout_ms"),
    Mistake("a forced step is not marked", envelope, "    if is_forced:\n", "    if is_forced is None:\n"),
    Mistake("a merge asks no rule", merging, "if is_step and (rule :=", "if not is_step and (rule :="),
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: each.words)
def test_a_mistake_is_found(monkeypatch: pytest.MonkeyPatch, mistake: Mistake):
    """A walk finds a way that a mistake opens."""
    plant(monkeypatch, mistake)
    walk = of_its_own("memory")
    seed(1)(walk)
    with pytest.raises(AssertionError) as caught:
        explore(walk, 300, STEPS, [Phase.generate])
    print(repr(caught.value)[:300])
