"""The examination finds mistakes where SQLite's engine goes its own ways, as far as no race between threads decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from tai_state.engines.sqlite import engine, preparing, reader, seeing, watching, worker, writer
from tai_state.errors import StoreUnavailable
from tai_state.testing import (
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

from ...support.examined import Red, expect_red, run
from ...support.mistakes import plant

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One event loop will do: the checks themselves run under each."""
    return "asyncio"


COUNTER_OF_OTHERS = "if reserved is None or connection.data_version() != self._data_version:"
BUDGET = "check_budget({each.path: each.size for each in prepared}, len(writes), _CAPABILITIES)"
PUT_AT = "time, collection, name, at))\n        return cursor.connection.changes() == 1"
WRITTEN = "_write(cursor, writes, revision + 1, now)"
NAMED = "if write.text is not None or write.deletes"

MISTAKES = (
    Red(
        read_checks.check_read_keeps_order_and_absence,
        "in order of paths",
        "lambda it: [_one(it, path) for path in paths]",
        "lambda it: [_one(it, path) for path in sorted(paths)]",
        reader,
    ),
    Red(
        read_checks.check_read_sees_acknowledged_commits,
        "the reader stays at the moment of its first look",
        "                    self._connection = self._file.connect()\n",
        "                    self._connection = self._file.connect()\n"
        '                    self._connection.execute("BEGIN; SELECT * FROM documents").fetchall()\n',
        reader,
    ),
    Red(
        read_checks.check_json_round_trip,
        "a whole float is an integer",
        "encoded = _encode(write.fields)",
        'encoded = _encode(write.fields).replace(b".0", b"")',
        preparing,
    ),
    Red(
        commit_checks.check_preconditions,
        "what a deletion requires is not looked at",
        "        if not _holds(cursor, write):\n            return write.deletes and",
        "        if False:\n            return write.deletes and",
        writer,
    ),
    Red(
        commit_checks.check_commit_is_all_or_nothing,
        "what was written before the refusal stays",
        "            if write is not writes[0]:\n                raise _HalfWrittenError\n",
        "",
        writer,
    ),
    Red(
        commit_checks.check_a_path_stands_in_a_commit_once,
        "the last one counts",
        BUDGET,
        BUDGET.replace("len(writes)", "len({each.path for each in writes})"),
        engine,
    ),
    Red(
        commit_checks.check_revisions_grow,
        "each commit has the same",
        "            revision += 1\n            last_writes",
        "            last_writes",
        writer,
    ),
    Red(
        commit_checks.check_times,
        "the answer has a time of its own",
        "outcomes.append(Committed(revision, now))",
        "outcomes.append(Committed(revision, self._clock.now_us()))",
        writer,
    ),
    Red(
        commit_checks.check_limits,
        "checks and deletions do not count",
        BUDGET,
        BUDGET.replace(
            "in prepared}, len(writes)", "in prepared if each.text}, sum(1 for each in prepared if each.text)"
        ),
        engine,
    ),
    Red(
        scan_checks.check_scan_order,
        "capitals and small letters are alike",
        "AND id < :end ORDER BY id\n",
        "AND id < :end ORDER BY id COLLATE NOCASE\n",
        engine,
    ),
    Red(scan_checks.check_scan_bounds, "the end is included", "AND id < :end", "AND id <= :end", engine),
    Red(
        scan_checks.check_scan_resumes,
        "it goes on with the last one",
        '"start": scan.start.encode(), "end": end}',
        '"start": scan.start.encode().rstrip(b"\\0"), "end": end}',
        engine,
    ),
    Red(
        scan_checks.check_scan_keeps_to_its_collection,
        "collections that begin alike belong to it",
        "WHERE collection = :collection AND id >= ",
        "WHERE collection LIKE :collection || '%' AND id >= ",
        engine,
    ),
    Red(
        scan_checks.check_scan_pages_and_limits,
        "there is one page only",
        "    return rows, False",
        "    return rows, True",
        reader,
    ),
    Red(
        scan_checks.check_scan_large_documents,
        "it ends with a page that is full of bytes",
        "    return rows, False",
        "    return rows, size >= _PAGE_BYTES",
        reader,
    ),
    Red(
        paging_checks.check_scan_after_a_cancelled_step,
        "the thread moves on, whether the page is taken or not",
        "        return _page(connection.execute(sql, place), rows_max)\n    except",
        "        found = _page(connection.execute(sql, place), rows_max)\n"
        '        place.update({"start": found[0][-1][0] + b"\\0"} if found[0] else {})\n'
        "        return found\n    except",
        reader,
    ),
    Red(
        query_checks.check_scan_by_field,
        "ties come in any order",
        "ORDER BY {{value}}, id\n",
        "ORDER BY {{value}}, id DESC\n",
        engine,
    ),
    Red(
        query_checks.check_scan_by_field_leaves_out_what_is_no_text,
        "what is no text is compared as one",
        "json_type(fields, {literal}) = 'text'",
        "json_type(fields, {literal}) IS NOT NULL",
        engine,
    ),
    Red(
        query_checks.check_scan_by_field_pages,
        "a page goes on behind all that has the last one's value",
        '"resume": last[0]}',
        '"resume": b"~"}',
        engine,
    ),
    Red(
        query_checks.check_a_timestamp_may_be_anything,
        "a timestamp is taken as it is",
        'return found if isinstance(found, str) else ""',
        "return found",
        preparing,
        says=TypeError,
    ),
    Red(
        query_checks.check_where_on_few_of_many,
        "a page without a match is the last",
        "return [each for each in found if is_chosen(each, scan.where)] if scan.where else found",
        "return [each for each in found if is_chosen(each, scan.where)] or None if scan.where else found",
        engine,
    ),
    Red(
        watch_checks.check_watch_begins_with_what_is,
        "what is absent is not told",
        "                    present.append((target, target, now))",
        "                    present += [(target, target, now)] if now else []",
        seeing,
        says=TimeoutError,
    ),
    Red(
        watch_checks.check_watch_tells_of_deletions,
        "a deletion is not named",
        NAMED,
        "if write.text is not None",
        watching,
        says=TimeoutError,
    ),
    Red(
        watch_checks.check_watch_always_ends_with_the_last,
        "only what was absent is news",
        "elif target in self._documents and self._documents[target] != now:",
        "elif target in self._documents and self._documents[target] is None:",
        seeing,
        says=TimeoutError,
    ),
    Red(
        watch_checks.check_watch_sleeps_through_what_others_write,
        "everybody is told of everything",
        "for target in self._watches.targets(write.path)",
        "for target in self._watches._of",
        watching,
    ),
    Red(
        watch_checks.check_watch_sleeps_through_what_others_write,
        "everybody looks whether it concerns them",
        "        if paths:\n",
        "        for each in self._entered:\n            each._signal.raise_()\n        if paths:\n",
        watching,
    ),
    Red(
        watch_checks.check_watch_left_early,
        "what is watched no longer is looked at no longer, though others watch it",
        "            self._users[target] -= 1\n",
        "            self._users[target] = 0\n",
        seeing,
        says=TimeoutError,
    ),
    Red(
        order_checks.check_changes_come_in_the_order_of_commits,
        "what was written at the revision comes again",
        '"revision": after + 1,',
        '"revision": after,',
        engine,
    ),
    Red(
        order_checks.check_changes_of_a_commit_stay_together,
        "a page goes on with the next commit",
        "place.update(revision=rows[-1][2], id=rows[-1][0])",
        'place.update(revision=rows[-1][2] + 1, id=b"")',
        engine,
    ),
    Red(
        order_checks.check_what_becomes_visible_is_later,
        "what others have given counts for nothing",
        COUNTER_OF_OTHERS,
        "if reserved is None:",
        writer,
    ),
    Red(
        race_checks.check_one_writer_wins,
        "whether it was written is not asked",
        PUT_AT,
        PUT_AT.replace("return cursor.connection.changes() == 1", "return True"),
        writer,
    ),
    Red(
        race_checks.check_no_increment_is_lost,
        "whether it was written is not asked",
        PUT_AT,
        PUT_AT.replace("return cursor.connection.changes() == 1", "return True"),
        writer,
    ),
    Red(
        race_checks.check_a_bad_commit_harms_no_other,
        "those that were to be committed with it fail with it",
        "                self.serve(others)",
        "                self._answer(others, odd.__cause__)",
        writer,
    ),
    Red(
        race_checks.check_cancelled_reads,
        "a read that is cancelled ends the thread",
        "            job.abandoned = True\n",
        "            self._is_closing = True\n",
        worker,
        says=RuntimeError,
    ),
    Red(
        lifecycle_checks.check_outside_of_its_block,
        "the file is checked by itself",
        "        _opened(self._reader)\n        return await anyio",
        "        return await anyio",
        engine,
    ),
    Red(
        lifecycle_checks.check_entered_twice,
        "a block inside the block is entered",
        "if self._writer is not None or self._reader is not None:",
        "if False:",
        engine,
    ),
    Red(
        lifecycle_checks.check_closing_ends_watches,
        "watches wait on",
        "        self._watches.fail(error)\n        self._entered.clear()",
        "        self._entered.clear()",
        watching,
        says=TimeoutError,
    ),
    Red(
        lifecycle_checks.check_nothing_begins_while_closing,
        "until the threads have ended it is open",
        "if worker is None or worker.is_closing:",
        "if worker is None:",
        engine,
    ),
    Red(
        moment_checks.check_a_moment_stands_still,
        "a moment begins with its first read",
        "BEGIN; SELECT count(*) FROM sqlite_schema",
        "BEGIN",
        reader,
    ),
    Red(
        moment_checks.check_a_moment_of_many_pages,
        "each page is of a moment of its own",
        "            await worker.do(stand_still)\n",
        "            worker.do = self._reader.do\n",
        engine,
        says=StoreUnavailable,
    ),
    Red(
        moment_checks.check_closing_ends_moments,
        "moments go on",
        "        workers += self._moments\n",
        "",
        engine,
    ),
    Red(
        reopen_checks.check_commits_survive_closing,
        "what was committed is taken back",
        '            connection.execute("COMMIT")\n        except apsw.Error',
        '            connection.execute("ROLLBACK")\n        except apsw.Error',
        writer,
    ),
    Red(
        reopen_checks.check_revisions_grow_over_reopening,
        "revisions go on from what is there",
        "else max(before[0], now)",
        'else cursor.execute("SELECT coalesce(max(revision), 0) FROM documents").get',
        writer,
    ),
)


@pytest.mark.parametrize("red", MISTAKES, ids=lambda each: each.name)
async def test_a_mistake_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: ManualClock, red: Red):
    """An engine with the mistake fails the check, and says what is wrong, or waits for what never comes."""
    plant(monkeypatch, red.mistake)
    await expect_red(monkeypatch, red, lambda: run(red.check, lambda: engine.SqliteEngine(str(tmp_path / "x"), clock)))
