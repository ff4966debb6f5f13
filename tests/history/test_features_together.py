"""Features with each other, in an order left to chance: on the engine in memory, and on SQLite with its backups."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from hypothesis import Phase, seed

from tai_state import EventSourcingError
from tai_state.engines import settling
from tai_state.history import cleanup, exporting
from tai_state.streams import judging

from ..support.features import MACHINES, Features, explore
from ..support.mistakes import Mistake, plant

RUNS, STEPS = 30, 30
MORE_MAX = 8
WANTED = (
    "acknowledged",
    "again",
    "at once",
    "unknown",
    "refused",
    "cleanup",
    "restored",
    "damaged",
    "synced",
    "joined",
    "retired",
)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What is logged of so many faults is not for reading."""
    caplog.set_level(logging.CRITICAL, "tai_state")


def of_its_own(kind: str) -> type[Features]:
    """A machine that counts for one test alone."""
    return type(kind, (MACHINES[kind],), {"told": Counter()})


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", MACHINES)
def test_features_do_not_harm_each_other(kind: str, pytestconfig: pytest.Config):
    """Whatever is done in whatever order, what was acknowledged is there once, and what was removed stays away."""
    machine = of_its_own(kind)
    wanted = (*WANTED, "put back") if kind == "sqlite" else WANTED
    for more in range(MORE_MAX):
        seed(f"{pytestconfig.getoption('--hypothesis-seed')} {more}")(machine)
        explore(machine, RUNS, STEPS)
        if all(machine.told[each] for each in wanted):
            break
    print(dict(machine.told))
    assert [each for each in wanted if not machine.told[each]] == []


MISTAKES = (
    Mistake("a known id is not looked for", judging, "        if not self._markers:\n", "        if self._markers:\n"),
    Mistake(
        "an export leaves markers out",
        exporting,
        '            yield _line("marker", document)\n',
        '            if not document:\n                yield _line("marker", document)\n',
    ),
    Mistake("a lost answer counts as a failure", settling, "if not failure.unknown and not", "if not"),
    Mistake(
        "a cleanup removes one event too many",
        cleanup,
        "stream.range(1, before - 1)",
        "stream.range(1, before)",
    ),
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: each.words)
def test_a_mistake_is_found(monkeypatch: pytest.MonkeyPatch, mistake: Mistake):
    """A mistake in one feature turns red what others rely on."""
    plant(monkeypatch, mistake)
    machine = of_its_own("memory")
    seed(1)(machine)
    with pytest.raises((AssertionError, EventSourcingError)) as caught:
        explore(machine, 300, 40, [Phase.generate])
    print(repr(caught.value)[:300])
