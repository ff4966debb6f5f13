"""Fixtures for suites that use tai-state; pytest loads them where tai-state is installed.

- ``tai_state_store``: a fresh store in memory, to be entered: ``async with tai_state_store as store:``.
- ``firestore_store``: the same on the Firestore emulator, in a project of its own.
- ``firestore_project``: the id of that project.
- ``firestore_emulator``: the emulator, one for the whole run; ``FIRESTORE_EMULATOR_HOST`` is set meanwhile.

Where no emulator is installed, tests that need one are skipped, and the run's last lines say so; with ``CI=true``
they fail instead. The stores are not open yet, so any plugin for asynchronous tests will do.

A module beside the package: pytest loads it in every run, and loading the package would make each a little slower.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NoReturn

import pytest

if TYPE_CHECKING:
    from tai_state import StateStore
    from tai_state.testing.emulator import Emulator

_SKIPPED: Final = "needs the Firestore emulator: "


@pytest.fixture(scope="session")
def firestore_emulator() -> Iterator[Emulator]:
    """The Firestore emulator: the one of ``FIRESTORE_EMULATOR_HOST``, else started for this run."""
    # Imported here, as in every fixture, so that a run that uses none pays nothing.
    from tai_state.engines.firestore.engine import EMULATOR  # noqa: PLC0415
    from tai_state.errors import EmulatorNotFound  # noqa: PLC0415
    from tai_state.testing.emulator import running_emulator  # noqa: PLC0415

    try:
        with running_emulator() as emulator, pytest.MonkeyPatch.context() as patch:
            patch.setenv(EMULATOR, emulator.host)
            yield emulator
    except EmulatorNotFound as error:
        without_emulator(error)


def without_emulator(error: Exception) -> NoReturn:
    """End a test that needs an emulator where there is none: with ``CI=true`` it fails, elsewhere it is skipped."""
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"{_SKIPPED}{error}", pytrace=False)
    pytest.skip(f"{_SKIPPED}{error}")


@pytest.fixture
def firestore_project(firestore_emulator: Emulator) -> str:
    """The id of a project on the emulator that no other test uses."""
    from tai_state.testing.emulator import fresh_project  # noqa: PLC0415

    _ = firestore_emulator
    return fresh_project()


@pytest.fixture
def firestore_store(firestore_project: str) -> StateStore:
    """An empty store on the emulator, not yet open."""
    from tai_state import open_store  # noqa: PLC0415

    return open_store(f"firestore://{firestore_project}")


@pytest.fixture
def tai_state_store() -> StateStore:
    """An empty store in memory, not yet open."""
    from tai_state import open_store  # noqa: PLC0415

    return open_store("memory://")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """One loud line at the end where tests were skipped for want of an emulator."""
    yield
    reasons = [_reason(report) for report in terminalreporter.getreports("skipped")]
    missing = [reason.partition(_SKIPPED)[2] for reason in reasons if _SKIPPED in reason]
    if missing:
        line = f"NOT RUN: {len(missing)} tests that need the Firestore emulator: {missing[0]}"
        terminalreporter.write_line(line, red=True, bold=True)


def _reason(report: object) -> str:
    return (
        str(report.longrepr[2]) if isinstance(report, pytest.TestReport) and isinstance(report.longrepr, tuple) else ""
    )
