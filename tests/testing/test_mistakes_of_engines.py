"""The examination, examined: for each of its checks, a mistake in an engine that turns it red."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tai_state.engines import filtering, memory, ordering, paging, watching
from tai_state.testing import (
    ENGINE_CHECKS,
    LIFECYCLE_CHECKS,
    REOPEN_CHECKS,
    ManualClock,
    commit_checks,
    lifecycle_checks,
    moment_checks,
    order_checks,
    paging_checks,
    query_checks,
    race_checks,
    read_checks,
    reopen_checks,
    scan_checks,
    watch_checks,
)

from ..support.examined import Red, expect_red, run
from ..support.mistakes import plant

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: the checks themselves run under each."""
    return "asyncio"


PARENT = 'if self._documents.get(f"{collection}/{each}") is None'
BELOW = 'each[len(begin) :].partition("/")[0] for each, ids in self._ids.items() if ids and each.startswith(begin)'
GET = "tuple(self._documents.get(path) for path in paths)"
ENCODED = "Document(*split(write.path), encoded[write.path], revision, now)"
BUDGET = "check_budget(sizes, len(writes), self.capabilities)"
SCANNED = "found = self._ranged(scan)"
FETCH = """\
            nonlocal is_fetched
            await self._checkpoint()
            if is_fetched:
                return None
            found = find()
            is_fetched = True
"""
TELL = "self._news[path] = revision"
NEXT_REVISION = "revision = self._documents.next_revision()"
CHECKPOINT_OF_COMMIT = "        await self._checkpoint()\n        present: set[str] = set()"
APPLY = "        for write in writes:\n            if isinstance(write, Put):\n                self._documents.set("
READ = "        await self._checkpoint()\n        return Reading("
FAIL = "            self._watches.fail(RuntimeError(NOT_OPEN))"

MISTAKES = (
    Red(
        read_checks.check_read_keeps_order_and_absence,
        "in order of paths",
        GET,
        GET.replace("in paths", "in sorted(paths)"),
    ),
    Red(
        read_checks.check_read_sees_acknowledged_commits,
        "what was read once is remembered",
        GET,
        'tuple(vars(self).setdefault(f"read {path}", self._documents.get(path)) for path in paths)',
    ),
    Red(read_checks.check_missing_documents_are_named, "all that have documents below them are", PARENT, ""),
    Red(
        read_checks.check_missing_documents_are_named,
        "only those right above a document are",
        BELOW,
        f"{BELOW} and each.count('/') == begin.count('/') + 1",
    ),
    Red(
        read_checks.check_missing_documents_are_named,
        "those whose documents were deleted are, too",
        BELOW,
        BELOW.replace("if ids and", "if"),
    ),
    Red(
        read_checks.check_missing_documents_are_named,
        "those of a collection whose name begins alike are, too",
        """        begin = f"{collection}/"\n        return {""",
        """        begin = collection\n        return {""",
    ),
    Red(
        read_checks.check_read_is_one_snapshot,
        "one document after the other",
        GET,
        "tuple([(await self._checkpoint(), self._documents.get(path))[1] for path in paths])",
    ),
    Red(
        read_checks.check_fields_are_not_shared,
        "the caller's fields are kept",
        ENCODED,
        ENCODED.replace("encoded[write.path]", "write.fields"),
    ),
    Red(
        read_checks.check_json_round_trip,
        "a whole float is an integer",
        ENCODED,
        ENCODED.replace("path],", 'path].replace(b".0", b""),'),
    ),
    Red(
        commit_checks.check_preconditions,
        "what a deletion requires is not looked at",
        "            if not holds(write.require,",
        "            if not isinstance(write, Delete) and not holds(write.require,",
    ),
    Red(
        commit_checks.check_commit_is_all_or_nothing,
        "what was written before the refusal stays",
        "            if document is not None:\n                present.add(write.path)",
        "            if isinstance(write, Delete):\n                self._documents.set(write.path, None)",
    ),
    Red(
        commit_checks.check_a_path_stands_in_a_commit_once,
        "the last one counts",
        BUDGET,
        BUDGET.replace("len(writes)", "len(sizes)"),
    ),
    Red(
        commit_checks.check_revisions_grow,
        "one more than what is there",
        NEXT_REVISION,
        "revision = 1 + max([each.revision for each in self._documents._documents.values()], default=0)",
    ),
    Red(
        commit_checks.check_times,
        "each document has a time of its own",
        ENCODED,
        ENCODED.replace("now", "self._clock.now_us()"),
    ),
    Red(
        commit_checks.check_limits,
        "checks and deletions do not count",
        BUDGET,
        "check_budget({each: sizes[each] for each in encoded}, len(encoded), self.capabilities)",
    ),
    Red(
        scan_checks.check_scan_order,
        "capitals and small letters are alike",
        "insort(ids, document_id)",
        "insort(ids, document_id, key=str.lower)",
    ),
    Red(
        scan_checks.check_scan_bounds,
        "the end is included",
        "else bisect_left(ids, end)]",
        'else bisect_left(ids, end + "\\0")]',
    ),
    Red(
        scan_checks.check_scan_resumes,
        "it goes on with the last one",
        "bisect_left(ids, start)",
        'bisect_left(ids, start.rstrip("\\0"))',
    ),
    Red(
        scan_checks.check_scan_keeps_to_its_collection,
        "collections below it belong to it",
        'return [self._documents[f"{collection}/{each}"] for each in chosen]',
        'return [self._documents[each] for each in sorted(self._documents) if each.startswith(f"{collection}/")]',
    ),
    Red(scan_checks.check_scan_pages_and_limits, "there is one page only", SCANNED, f"{SCANNED}[:1_000]"),
    Red(
        scan_checks.check_scan_large_documents,
        "it ends with what fits into a message",
        SCANNED,
        "found = [each for n, each in enumerate(self._ranged(scan)) if n * each.size < 2**21]",
    ),
    Red(
        scan_checks.check_scan_while_written,
        "it goes on after so many documents, whichever they are",
        FETCH,
        """\
            nonlocal is_fetched
            await self._checkpoint()
            found = find()[is_fetched : is_fetched + 100]
            is_fetched += 100
            if not found:
                return None
""",
    ),
    Red(
        scan_checks.check_scan_broken_off,
        "it holds a file open",
        FETCH,
        FETCH.replace("found =", 'vars(fetch)["held"] = open("/dev/null")\n            found ='),
    ),
    Red(
        paging_checks.check_scan_after_an_error,
        "what is put back is forgotten",
        "self._items = chain(items, self._items)",
        "list(items)",
        paging,
    ),
    Red(
        paging_checks.check_scan_after_an_error,
        "what comes after an item that is wrong is given",
        "        self._items = self._failed\n",
        "        self._items = _NOTHING\n",
        paging,
    ),
    Red(
        paging_checks.check_scan_after_a_cancelled_step,
        "a page counts as given before it is there",
        FETCH,
        """\
            nonlocal is_fetched
            if is_fetched:
                return None
            is_fetched = True
            await self._checkpoint()
            found = find()
""",
    ),
    Red(
        paging_checks.check_scan_shared_by_tasks, "two tasks fetch one page", "self._is_fetching = True", "pass", paging
    ),
    Red(
        query_checks.check_scan_by_field,
        "ties come in any order",
        "sorted(chosen, key=lambda each: each[:2])",
        "sorted(chosen[::-1], key=lambda each: each[0])",
    ),
    Red(
        query_checks.check_scan_by_field_leaves_out_what_is_no_text,
        "what is no text is made into one",
        "isinstance(value := field(document.fields(), scan.by), str)",
        "isinstance(value := str(field(document.fields(), scan.by)), str)",
    ),
    Red(
        query_checks.check_scan_by_field_pages,
        "what has the same value comes once",
        "sorted(chosen, key=lambda each: each[:2])",
        "sorted({each[0]: each for each in chosen}.values())",
    ),
    Red(
        query_checks.check_a_timestamp_may_be_anything,
        "a timestamp must be text",
        NEXT_REVISION,
        f'{NEXT_REVISION}\n        [each.fields.get("timestamp", "").upper() for each in writes if "/3" in each.path]',
        says=AttributeError,
    ),
    Red(
        query_checks.check_where, "true is one", " and isinstance(one, bool) == isinstance(other, bool)", "", filtering
    ),
    Red(
        query_checks.check_where_on_few_of_many, "the filter comes after the limit", SCANNED, f"{SCANNED}[: scan.limit]"
    ),
    Red(
        watch_checks.check_watch_begins_with_what_is,
        "what is absent is not told",
        "                watch.tell(target, None if found is None else found.revision)",
        "                found is None or watch.tell(target, found.revision)",
        says=TimeoutError,
    ),
    Red(
        watch_checks.check_watch_misses_nothing_after_entering,
        "nothing is told before the first wait",
        TELL,
        f"if self._signal._event or path not in self._news:\n            {TELL}",
        watching,
        says=TimeoutError,
    ),
    Red(
        watch_checks.check_watch_tells_of_a_deletion_right_after_entering,
        "what goes before it is told is told by nobody",
        TELL,
        f"{TELL}\n        if revision is None:\n            del self._news[path]",
        watching,
    ),
    Red(
        watch_checks.check_watch_after_a_cancelled_step,
        "a change is taken before its step is over",
        "        return DocumentChange(path, self._news.pop(path))",
        "        change = DocumentChange(path, self._news.pop(path))\n"
        "        await anyio.sleep(0)\n        return change",
        watching,
        says=TimeoutError,
    ),
    Red(
        watch_checks.check_watch_always_ends_with_the_last,
        "the first of several changes is told",
        TELL,
        "self._news.setdefault(path, revision)",
        watching,
        says=TimeoutError,
    ),
    Red(
        watch_checks.check_watch_tells_of_deletions,
        "a deletion is not told",
        "                self._documents.set(write.path, None)\n                self._tell(write.path, None)",
        "                self._documents.set(write.path, None)",
        says=TimeoutError,
    ),
    Red(
        watch_checks.check_watch_wakes_everybody,
        "one of them is told",
        "in self._of.get(target, ()):",
        "in list(self._of.get(target, ()))[:1]:",
        watching,
        says=TimeoutError,
    ),
    Red(
        watch_checks.check_watch_sleeps_through_what_others_write,
        "everybody is told of everything",
        'return [target for target in (path, path.rpartition("/")[0]) if target in self._of]',
        "return list(self._of)",
        watching,
    ),
    Red(
        watch_checks.check_watch_sleeps_through_what_others_write,
        "everybody looks whether it concerns them",
        'return [target for target in (path, path.rpartition("/")[0]) if target in self._of]',
        """\
[each._signal.raise_() for some in self._of.values() for each in some]
        return [target for target in (path, path.rpartition("/")[0]) if target in self._of]""",
        watching,
    ),
    Red(
        watch_checks.check_watch_left_early,
        "leaving one watch closes the engine",
        "            self._watches.remove(watch)",
        "            self._is_open = False",
        says=RuntimeError,
    ),
    Red(
        order_checks.check_changes_come_in_the_order_of_commits,
        "in the order of ids",
        "return sorted(found, key=lambda each: each.revision)",
        "return found",
    ),
    Red(
        order_checks.check_changes_come_in_the_order_of_commits,
        "what was written at the revision comes again",
        "if each.revision > after]",
        "if each.revision >= after]",
    ),
    Red(
        order_checks.check_changes_of_a_commit_stay_together,
        "a commit is cut in two",
        "if given >= limit and document.revision != last:",
        "if given >= limit:",
        ordering,
    ),
    Red(
        order_checks.check_changes_are_of_events_only,
        "any collection will do",
        "if not is_of_events(collection):",
        "if False:",
        ordering,
    ),
    Red(
        order_checks.check_nothing_is_missed_by_following,
        "a lower revision is seen later",
        "        return self._revision",
        "        return self._revision ^ 1",
    ),
    Red(
        race_checks.check_one_writer_wins,
        "others come in between look and write",
        NEXT_REVISION,
        f"await self._checkpoint()\n        {NEXT_REVISION}",
    ),
    Red(
        race_checks.check_no_increment_is_lost,
        "others come in between look and write",
        NEXT_REVISION,
        f"await self._checkpoint()\n        {NEXT_REVISION}",
    ),
    Red(
        race_checks.check_a_bad_commit_harms_no_other,
        "after a commit that cannot be stored, nothing is",
        "        encoded = {",
        '        if vars(self).get("is_broken"):\n            raise CorruptDocument("c", "is broken")\n'
        '        self.is_broken = any("bad" in each.path for each in writes)\n        encoded = {',
    ),
    Red(
        race_checks.check_cancelled_commits,
        "others come in between two writes",
        APPLY,
        APPLY.replace("writes:\n", "writes:\n            await self._checkpoint()\n"),
    ),
    Red(
        race_checks.check_natively_cancelled_commits,
        "others come in between two writes",
        APPLY,
        APPLY.replace("writes:\n", "writes:\n            await self._checkpoint()\n"),
    ),
    Red(
        race_checks.check_watch_sees_cancelled_commits,
        "watches are told by the caller, once it has its answer",
        "        return Committed(revision, now)\n\n    def _tell(self, path: str, revision: int | None) -> None:\n",
        """\
        await self._checkpoint()
        for path in encoded:
            self._tell_late(path, revision)
        return Committed(revision, now)

    def _tell(self, path: str, revision: int | None) -> None:
        pass

    def _tell_late(self, path: str, revision: int | None) -> None:
""",
        says=TimeoutError,
    ),
    Red(
        race_checks.check_cancelled_reads,
        "a read that is cancelled leaves the engine closed",
        READ,
        """\
        try:
            await self._checkpoint()
        except BaseException:
            self._is_open = False
            raise
        return Reading(""",
        says=RuntimeError,
    ),
    Red(
        lifecycle_checks.check_outside_of_its_block,
        "it works outside of its block",
        "        if not self._is_open:\n            raise RuntimeError(NOT_OPEN)",
        "",
    ),
    Red(
        lifecycle_checks.check_entered_twice,
        "a block inside the block is entered",
        "        if self._is_open:\n            raise RuntimeError(OPEN_ALREADY)\n",
        "",
    ),
    Red(
        lifecycle_checks.check_nothing_begins_while_closing,
        "it stays open for a while",
        "            self._is_open = False\n",
        "            for _ in range(9):\n                await self._checkpoint()\n            self._is_open = False\n",
    ),
    Red(
        moment_checks.check_a_moment_stands_still,
        "a moment is what is now",
        "MemoryEngine(clock, self._documents.copy(),",
        "MemoryEngine(clock, self._documents,",
    ),
    Red(
        moment_checks.check_a_moment_of_many_pages,
        "documents are written into what was copied",
        "        copied._documents = dict(self._documents)",
        "        copied._documents = self._documents",
    ),
    Red(
        moment_checks.check_a_moment_tears_no_commit,
        "a moment is what is now",
        "MemoryEngine(clock, self._documents.copy(),",
        "MemoryEngine(clock, self._documents,",
    ),
    Red(
        moment_checks.check_closing_ends_moments,
        "moments go on",
        "            for moment in self._moments:",
        "            for moment in ():",
    ),
    Red(lifecycle_checks.check_closing_ends_watches, "watches wait on", FAIL, "            pass", says=TimeoutError),
    Red(
        reopen_checks.check_commits_survive_closing,
        "the last commit is lost",
        FAIL,
        "            self._documents.set(list(self._documents._documents)[-1], None)",
    ),
    Red(
        reopen_checks.check_revisions_grow_over_reopening,
        "revisions go on from what is there",
        "        self._is_open = True\n",
        "        self._is_open = True\n        there = self._documents._documents.values()\n"
        "        self._documents._revision = max([each.revision for each in there], default=0)\n",
    ),
    Red(
        reopen_checks.check_closing_waits_for_commits,
        "closing waits for nobody",
        CHECKPOINT_OF_COMMIT,
        f"        for _ in range(9):\n            await self._checkpoint()\n{CHECKPOINT_OF_COMMIT}",
        says=RuntimeError,
    ),
    Red(
        reopen_checks.check_two_users_of_one_store,
        "what was read once is remembered",
        GET,
        'tuple(vars(self).setdefault(f"read {path}", self._documents.get(path)) for path in paths)',
    ),
    Red(
        order_checks.check_what_becomes_visible_is_later,
        "a lower revision is seen later",
        "        return self._revision",
        "        return self._revision ^ 1",
    ),
)


def make_at(clock: ManualClock, documents: memory.MemoryDocuments) -> memory.MemoryEngine:
    """An engine over these documents that counts as durable."""
    engine = memory.MemoryEngine(clock, documents)
    engine._capabilities = replace(engine.capabilities, durable=True, processes=True)
    return engine


async def examine(check: Callable[..., Any]) -> None:
    """Run a check on the engine in memory; one for durable engines on several over the same documents."""
    clock, documents = ManualClock(step_us=1), memory.MemoryDocuments()
    first = make_at(clock, documents)

    def make() -> memory.MemoryEngine:
        engine = make_at(clock, documents)
        engine._told = first._told
        return engine

    await run(check, make)


@pytest.mark.parametrize("red", MISTAKES, ids=lambda each: each.name)
async def test_a_mistake_is_found(monkeypatch: pytest.MonkeyPatch, red: Red):
    """An engine with the mistake fails the check, and says what is wrong, or waits for what never comes."""
    plant(monkeypatch, red.mistake)
    await expect_red(monkeypatch, red, lambda: examine(red.check))


@pytest.mark.parametrize("check", dict.fromkeys(each.check for each in MISTAKES), ids=lambda each: each.__name__)
async def test_without_a_mistake_it_is_green(check: Callable[..., Any]):
    """The engine as it is passes."""
    await examine(check)


def test_no_check_is_left_out():
    """For every check there is a mistake that it finds."""
    assert {each.check for each in MISTAKES} == {*ENGINE_CHECKS, *LIFECYCLE_CHECKS, *REOPEN_CHECKS}
