"""Commands that keep a store in order: verify, recover, snapshot, cleanup."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from tai_state.cli.common import (
    INCONSISTENT,
    AppOption,
    GovernorArgument,
    JsonOption,
    StateArgument,
    StoreOption,
    UsageError,
    YesOption,
    confirm,
    opened,
    run,
)
from tai_state.cli.loading import load_reducers
from tai_state.cli.output import Progress, plain, print_facts, print_json, print_line, print_table, say
from tai_state.errors import Inconsistent
from tai_state.history.persister import StateMachinePersister
from tai_state.history.reporting import RecoveryReport
from tai_state.store.opening import open_to_look
from tai_state.values.counting import counted

GovernorOption = Annotated[str | None, typer.Argument(metavar="GOVERNOR", help="The governor's id; by default, all.")]

_PROGRESS_EVERY = 1_000


def verify(
    governor: GovernorOption = None,
    *,
    reducers_name: AppOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every digest, fold, state and kept snapshot. Changes no document; exits with 4 if something is wrong."""
    reducers = load_reducers(reducers_name)

    async def command() -> None:
        async with open_to_look(store, _named_in_the_report) as opened_store:
            report = await StateMachinePersister(opened_store, reducers).validate_consistency(governor)
        if as_json:
            print_json(report)
        else:
            if report.findings:
                print_table(["kind", "path", "message"], [[f.kind, f.path, f.message] for f in report.findings])
            outcome = "consistent" if report.consistent else counted(len(report.findings), "finding")
            if report.unchecked:
                outcome += f", {counted(report.unchecked, 'state')} unchecked (pass the reducers with --app)"
            print_line(f"{counted(report.states, 'state')}, {counted(report.events, 'event')}: {outcome}")
        if not report.consistent:
            raise typer.Exit(INCONSISTENT)

    run(command)


def recover(
    governor: GovernorOption = None,
    *,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="How many states to check at a time.")] = 16,
    end_restore: Annotated[
        bool,
        typer.Option("--end-restore", help="First end a killed restore of GOVERNOR, of which no export is left."),
    ] = False,
    yes: YesOption = False,
    reducers_name: AppOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make every state agree with its events. Rebuilds what is missing or wrong; can be run again at any time."""
    reducers = load_reducers(reducers_name)
    if end_restore:
        if governor is None:
            raise UsageError("--end-restore needs the GOVERNOR whose restore is to be ended")
        confirm(f"Give up all of {governor!r} that its killed restore has not written?", yes=yes)

    async def command() -> None:
        with Progress() as line:

            async def progress(report: RecoveryReport) -> None:
                if not as_json and report.checked % _PROGRESS_EVERY < concurrency:
                    line.show(f"{counted(report.checked, 'state')} checked, {report.rebuilt_count:,} rebuilt")

            async with open_to_look(store, _named_in_the_report) as opened_store:
                persister = StateMachinePersister(opened_store, reducers)
                report = await persister.recover(
                    governor, concurrency=concurrency, progress=progress, end_restore=end_restore
                )
        if as_json:
            print_json({**plain(report), "consistent": report.consistent})
        else:
            rows: list[list[Any]] = [["rebuilt", path, ""] for path in report.rebuilt]
            rows += [["unchecked", path, "needs a reducer: pass it with --app"] for path in report.unchecked]
            rows += [["failed", path, why] for path, why in report.failed]
            if rows:
                print_table(["outcome", "path", "why"], rows)
            checked = f"{counted(report.checked, 'state')} checked, {report.sound:,} sound"
            left = f"{report.unchecked_count:,} unchecked, {report.failed_count:,} failed"
            print_line(f"{checked}, {report.rebuilt_count:,} rebuilt, {left}")
            if report.new_store_id is not None:
                say(f"the store has a new id, {report.new_store_id}: restart every service that has it open")
        if not report.consistent:
            raise typer.Exit(INCONSISTENT)

    run(command)


def snapshot(
    governor: GovernorArgument,
    state: StateArgument,
    *,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a snapshot of a state as it is now."""

    async def command() -> None:
        async with opened(store) as opened_store:
            kept = await opened_store.create_snapshot(governor, state)
            versions = await opened_store.list_snapshots(governor, state)
        print_facts({"version": kept.version, "kept": versions}, as_json=as_json, columns=("what", "value"))

    run(command)


def cleanup(
    governor: GovernorArgument,
    *,
    keep_days: Annotated[float, typer.Option(min=0, help="Keep history younger than this many days.")] = 30,
    yes: YesOption = False,
    reducers_name: AppOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove old events that a kept snapshot covers. Two snapshots of each state stay."""
    reducers = load_reducers(reducers_name)
    try:
        keep = timedelta(days=keep_days)
    except (OverflowError, ValueError):
        raise UsageError(f"--keep-days takes a number of days, not {keep_days:g}") from None

    async def check() -> None:
        async with opened(store) as opened_store:
            await opened_store.core.require_governor(governor)

    if not yes:
        run(check)
    confirm(f"Permanently remove the events of {governor!r} older than {keep_days:g} days?", yes=yes)

    async def command() -> None:
        async with opened(store) as opened_store:
            persister = StateMachinePersister(opened_store, reducers)
            stats = await persister.cleanup_old_data(governor, keep=keep)
        if as_json:
            print_json(stats)
        else:
            print_table(["what", "count"], [each for each in plain(stats).items() if each[0] != "failed"])
            if stats.failed:
                print_table(["outcome", "path", "why"], [["failed", path, why] for path, why in stats.failed])
        if stats.failed:
            raise typer.Exit(INCONSISTENT)

    run(command)


def _named_in_the_report(_: Inconsistent) -> None:
    """Go on although the store's own document is damaged: verify and recover look at it themselves."""
