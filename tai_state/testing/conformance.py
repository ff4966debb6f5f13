"""The examination that every engine passes: checks of what the docstrings of ``Engine`` promise.

Authors of engines can run it with any test runner::

    for check in ENGINE_CHECKS:
        async with MyEngine(...) as engine:      # new and empty for each check
            await check(engine)
    for check in LIFECYCLE_CHECKS:
        await check(MyEngine(...))               # new, and not opened yet
    for check in REOPEN_CHECKS:                  # engines that are durable
        await check(lambda: MyEngine(...))       # each call opens the same store, which is empty at first
    for check in WRAPPER_CHECKS:                 # engines around other engines
        await check(MyWrapper)                   # each call wraps the engine that it is given

A check raises AssertionError if the engine breaks its contract. No check waits for time to pass, and one that hangs
ends after a minute. Use a clock that moves with each reading; otherwise the check of times shows little.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from tai_state.engines.api import Engine
from tai_state.testing.commit_checks import (
    check_a_path_stands_in_a_commit_once,
    check_commit_is_all_or_nothing,
    check_limits,
    check_preconditions,
    check_revisions_grow,
    check_times,
)
from tai_state.testing.lifecycle_checks import (
    check_closing_ends_watches,
    check_entered_twice,
    check_nothing_begins_while_closing,
    check_outside_of_its_block,
)
from tai_state.testing.moment_checks import (
    check_a_moment_of_many_pages,
    check_a_moment_stands_still,
    check_a_moment_tears_no_commit,
    check_closing_ends_moments,
)
from tai_state.testing.order_checks import (
    check_changes_are_of_events_only,
    check_changes_come_in_the_order_of_commits,
    check_changes_of_a_commit_stay_together,
    check_nothing_is_missed_by_following,
    check_what_becomes_visible_is_later,
)
from tai_state.testing.paging_checks import (
    check_scan_after_a_cancelled_step,
    check_scan_after_an_error,
    check_scan_shared_by_tasks,
)
from tai_state.testing.query_checks import (
    check_a_timestamp_may_be_anything,
    check_scan_by_field,
    check_scan_by_field_leaves_out_what_is_no_text,
    check_scan_by_field_pages,
    check_where,
    check_where_on_few_of_many,
)
from tai_state.testing.race_checks import (
    check_a_bad_commit_harms_no_other,
    check_cancelled_commits,
    check_cancelled_reads,
    check_natively_cancelled_commits,
    check_no_increment_is_lost,
    check_one_writer_wins,
    check_watch_sees_cancelled_commits,
)
from tai_state.testing.read_checks import (
    check_fields_are_not_shared,
    check_json_round_trip,
    check_missing_documents_are_named,
    check_read_is_one_snapshot,
    check_read_keeps_order_and_absence,
    check_read_sees_acknowledged_commits,
)
from tai_state.testing.reopen_checks import (
    check_closing_waits_for_commits,
    check_commits_survive_closing,
    check_revisions_grow_over_reopening,
    check_two_users_of_one_store,
)
from tai_state.testing.scan_checks import (
    check_scan_bounds,
    check_scan_broken_off,
    check_scan_keeps_to_its_collection,
    check_scan_large_documents,
    check_scan_order,
    check_scan_pages_and_limits,
    check_scan_resumes,
    check_scan_while_written,
)
from tai_state.testing.watch_checks import (
    check_watch_after_a_cancelled_step,
    check_watch_always_ends_with_the_last,
    check_watch_begins_with_what_is,
    check_watch_left_early,
    check_watch_misses_nothing_after_entering,
    check_watch_sleeps_through_what_others_write,
    check_watch_tells_of_a_deletion_right_after_entering,
    check_watch_tells_of_deletions,
    check_watch_wakes_everybody,
)
from tai_state.testing.wrapper_checks import check_a_wrapper_is_transparent

EngineCheck: TypeAlias = Callable[[Engine], Awaitable[None]]
EngineMaker: TypeAlias = Callable[[], Engine]
ReopenCheck: TypeAlias = Callable[[EngineMaker], Awaitable[None]]
WrapperCheck: TypeAlias = Callable[[Callable[[Engine], Engine]], Awaitable[None]]

ENGINE_CHECKS: Final[tuple[EngineCheck, ...]] = (
    check_read_keeps_order_and_absence,
    check_read_sees_acknowledged_commits,
    check_read_is_one_snapshot,
    check_fields_are_not_shared,
    check_json_round_trip,
    check_missing_documents_are_named,
    check_preconditions,
    check_commit_is_all_or_nothing,
    check_a_path_stands_in_a_commit_once,
    check_revisions_grow,
    check_times,
    check_limits,
    check_scan_order,
    check_scan_bounds,
    check_scan_resumes,
    check_scan_keeps_to_its_collection,
    check_scan_pages_and_limits,
    check_scan_large_documents,
    check_scan_while_written,
    check_scan_broken_off,
    check_scan_after_an_error,
    check_scan_after_a_cancelled_step,
    check_scan_shared_by_tasks,
    check_scan_by_field,
    check_scan_by_field_leaves_out_what_is_no_text,
    check_scan_by_field_pages,
    check_a_timestamp_may_be_anything,
    check_where,
    check_where_on_few_of_many,
    check_a_moment_stands_still,
    check_a_moment_of_many_pages,
    check_a_moment_tears_no_commit,
    check_watch_begins_with_what_is,
    check_watch_misses_nothing_after_entering,
    check_watch_tells_of_a_deletion_right_after_entering,
    check_watch_after_a_cancelled_step,
    check_watch_always_ends_with_the_last,
    check_watch_tells_of_deletions,
    check_watch_wakes_everybody,
    check_watch_sleeps_through_what_others_write,
    check_watch_left_early,
    check_changes_come_in_the_order_of_commits,
    check_changes_of_a_commit_stay_together,
    check_changes_are_of_events_only,
    check_nothing_is_missed_by_following,
    check_one_writer_wins,
    check_no_increment_is_lost,
    check_a_bad_commit_harms_no_other,
    check_cancelled_commits,
    check_watch_sees_cancelled_commits,
    check_natively_cancelled_commits,
    check_cancelled_reads,
)
"""For every engine."""

LIFECYCLE_CHECKS: Final[tuple[EngineCheck, ...]] = (
    check_outside_of_its_block,
    check_entered_twice,
    check_closing_ends_watches,
    check_closing_ends_moments,
    check_nothing_begins_while_closing,
)
"""For every engine, before it is opened."""

REOPEN_CHECKS: Final[tuple[ReopenCheck, ...]] = (
    check_commits_survive_closing,
    check_revisions_grow_over_reopening,
    check_closing_waits_for_commits,
    check_two_users_of_one_store,
    check_what_becomes_visible_is_later,
)
"""For engines that are durable."""

WRAPPER_CHECKS: Final[tuple[WrapperCheck, ...]] = (check_a_wrapper_is_transparent,)
"""For engines around other engines."""
