"""The examination finds mistakes where Firestore's engine goes its own ways, as far as no race decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tai_state.engines.firestore import connection, engine, listening, messages, queries
from tai_state.testing import (
    commit_checks,
    lifecycle_checks,
    moment_checks,
    query_checks,
    read_checks,
    reopen_checks,
    scan_checks,
    watch_checks,
)
from tai_state.testing.emulator import fresh_project

from ...support.examined import Red, expect_red, run
from ...support.firestore import looked_up
from ...support.mistakes import plant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tai_state.engines.api import Committed, Write

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("firestore_emulator")]


@pytest.fixture
def anyio_backend() -> str:
    """Firestore's engine runs under asyncio only."""
    return "asyncio"


MISTAKES = (
    Red(
        read_checks.check_read_keeps_order_and_absence,
        "in order of paths",
        "tuple([found[path] for path in paths])",
        "tuple([found[path] for path in sorted(paths)])",
        connection,
    ),
    Red(
        commit_checks.check_preconditions,
        "the revision zero is none",
        "            raise CommitRefused(write.path)  # to Firestore",
        "            pass  # to Firestore",
        messages,
    ),
    Red(
        commit_checks.check_revisions_grow,
        "a document's revision is in milliseconds",
        "    return Document(*split(path), content, updated, updated)",
        "    return Document(*split(path), content, updated // 1_000, updated)",
        messages,
    ),
    Red(
        commit_checks.check_times,
        "the answer's time is in milliseconds",
        "        return Committed(time_us, time_us)\n\n    async def missing",
        "        return Committed(time_us, time_us // 1_000)\n\n    async def missing",
        connection,
    ),
    Red(
        commit_checks.check_a_path_stands_in_a_commit_once,
        "the last one counts",
        "check_budget(sizes, len(writes), capabilities)",
        "check_budget(sizes, len(sizes), capabilities)",
        messages,
    ),
    Red(
        commit_checks.check_limits,
        "checks and deletions do not count",
        "check_budget(sizes, len(writes), capabilities)",
        "sizes = dict(each for each in sizes.items() if each[1])\n    check_budget(sizes, len(sizes), capabilities)",
        messages,
    ),
    Red(
        scan_checks.check_scan_bounds,
        "the end is included",
        'structured.end_at.before = each.end[-1] != "\\x00"',
        "structured.end_at.before = False",
        queries,
    ),
    Red(
        scan_checks.check_scan_resumes,
        "it goes on with the last one",
        'is_after = each.start[-1] == "\\x00"',
        "is_after = False",
        queries,
    ),
    Red(
        query_checks.check_scan_by_field,
        "the start is left out",
        "_compare(to.field_filter, field, _GREATER_THAN_OR_EQUAL)",
        "_compare(to.field_filter, field, 3)",
        queries,
    ),
    Red(
        query_checks.check_where,
        "true is one",
        "to.boolean_value = value",
        "to.integer_value = int(value)",
        queries,
    ),
    Red(
        watch_checks.check_watch_tells_of_deletions,
        "a deletion is not told",
        'kind in {"document_delete", "document_remove"}',
        'kind == "document_remove"',
        listening,
        says=TimeoutError,
    ),
    Red(
        watch_checks.check_watch_left_early,
        "leaving one watch ends the stream of all",
        "        if not self._targets and self._stop is not None:",
        "        if self._stop is not None:",
        listening,
        says=TimeoutError,
    ),
    Red(
        lifecycle_checks.check_outside_of_its_block,
        "there is nothing to check",
        "        self._opened()\n        return ()",
        "        return ()",
        engine,
    ),
    Red(
        lifecycle_checks.check_entered_twice,
        "a block inside the block is entered",
        "if self._is_entered:",
        "if False:",
        engine,
    ),
    Red(
        lifecycle_checks.check_closing_ends_watches,
        "watches wait on",
        "        self._forget(watch)\n        watch.fail(error)\n",
        "        self._forget(watch)\n",
        listening,
        says=TimeoutError,
    ),
    Red(
        moment_checks.check_a_moment_stands_still,
        "a read is of now",
        "                request.read_time.FromMicroseconds(time_us)",
        "                pass",
        connection,
    ),
    Red(
        moment_checks.check_a_moment_of_many_pages,
        "a scan is of now",
        "        request.read_time.FromMicroseconds(each.at_us)",
        "        pass",
        queries,
    ),
    Red(
        reopen_checks.check_closing_waits_for_commits,
        "what is under way is broken off",
        "                await asyncio.wait(self._tasks)",
        "                [each.cancel() for each in self._tasks]",
        connection,
    ),
)


@pytest.mark.parametrize("red", MISTAKES, ids=lambda each: each.name)
async def test_a_mistake_is_found(monkeypatch: pytest.MonkeyPatch, red: Red):
    """An engine with the mistake fails the check, and says what is wrong, or waits for what never comes."""
    project = fresh_project()
    plant(monkeypatch, red.mistake)

    class Examined(engine.FirestoreEngine):  # which has the mistake by now
        async def commit(self, writes: Sequence[Write]) -> Committed:
            return await looked_up(super().commit, self.read, writes)

    await expect_red(monkeypatch, red, lambda: run(red.check, lambda: Examined(project)))
