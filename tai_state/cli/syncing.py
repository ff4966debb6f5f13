"""Commands for stores that change independently: sync, retire, conflicts."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import Enum
from typing import Annotated, Any

import typer

from tai_state.cli.common import (
    INCONSISTENT,
    AppOption,
    GovernorArgument,
    JsonOption,
    StoreOption,
    YesOption,
    confirm,
    opened,
    print_found,
    run,
)
from tai_state.cli.loading import load_reducers
from tai_state.cli.output import Progress, plain, print_json, print_line, print_table
from tai_state.conflicts.merging import FieldMerge
from tai_state.conflicts.recorded import RecordedConflict, conflicts_of
from tai_state.conflicts.resolvers import LastWriteWins, Resolver, VersionBased
from tai_state.conflicts.retiring import RetirementReport, is_retired, retire_store
from tai_state.conflicts.sync import SyncReport
from tai_state.conflicts.sync import sync as sync_stores
from tai_state.errors import GovernorNotFound, StoreNotFound, StoreNotNamed
from tai_state.store.store import StateStore
from tai_state.values.counting import counted

_PROGRESS_EVERY = 1_000
_CONCURRENCY = 16


class Strategy(Enum):
    """The ways to resolve conflicts, by their names on the command line."""

    LAST = "last"
    FIELDS = "fields"
    VERSION = "version"


_RESOLVERS: dict[Strategy, Resolver] = {
    Strategy.LAST: LastWriteWins(),
    Strategy.FIELDS: FieldMerge(),
    Strategy.VERSION: VersionBased(),
}


def sync(
    first: Annotated[str, typer.Argument(metavar="A", help="The address of one store.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The address of the other; created if it does not exist.")],
    *,
    governor: Annotated[str | None, typer.Option(metavar="GOVERNOR", help="Sync only this governor.")] = None,
    resolver: Annotated[
        Strategy,
        typer.Option(help="Which side wins if both changed a state: the last, field by field, higher version."),
    ] = Strategy.LAST,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be done, but write nothing.")] = False,
    reducers_name: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring two stores to the same states. Can be run again to go on; dropped changes are recorded (see conflicts)."""
    reducers = load_reducers(reducers_name)

    async def command() -> None:
        with Progress() as line:

            async def progress(report: SyncReport) -> None:
                if not as_json and report.checked % _PROGRESS_EVERY < _CONCURRENCY:
                    copied = counted(report.sent + report.received, "event")
                    line.show(f"{counted(report.checked, 'state')} checked, {copied} copied")

            async with opened(first) as one:
                is_there = await _has(one, governor)
                async with _other(second, create=is_there and not dry_run) as other:
                    if governor is not None and not is_there:
                        await other.core.require_governor(governor)
                    report = await sync_stores(
                        one,
                        other,
                        governor_id=governor,
                        resolver=_RESOLVERS[resolver],
                        reducers=reducers,
                        dry_run=dry_run,
                        concurrency=_CONCURRENCY,
                        progress=progress,
                    )
        if as_json:
            print_json({**plain(report), "complete": report.complete})
        else:
            _print(report)
        if not report.complete:
            raise typer.Exit(INCONSISTENT)

    run(command)


async def _has(store: StateStore, governor: str | None) -> bool:
    """Whether a store has the governor to sync; a sync of all governors needs none."""
    try:
        if governor is not None:
            await store.core.require_governor(governor)
    except GovernorNotFound:
        return False
    return True


@asynccontextmanager
async def _other(url: str, *, create: bool) -> AsyncGenerator[StateStore, None]:
    """The second store. If it does not exist and is not to be created, an empty store in memory takes its place."""
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context(opened(url, create=create))
        except StoreNotFound:
            if create:
                raise
            store = await stack.enter_async_context(opened("memory://", create=True))
        yield store


def _print(report: SyncReport) -> None:
    rows: list[list[Any]] = [
        ["joined", f"{each.governor_id} {each.state_id}", _dropped(each.discarded)] for each in report.conflicts
    ]
    rows += [["failed", path, why] for path, why in report.failed]
    if rows:
        print_table(["outcome", "state", "why"], rows)
    moved = f"{counted(report.sent, 'event')} from A to B, {report.received:,} from B to A"
    checked = counted(report.checked, "state")
    print_line(f"{checked} checked, {report.same:,} in sync: {moved}, {report.joined:,} joined")


def _dropped(count: int) -> str:
    return "changed on both sides" + (f"; {counted(count, 'change')} dropped and recorded" if count else "")


def retire(
    store_id: Annotated[str, typer.Argument(metavar="STORE_ID", help="The id of the store that is gone for good.")],
    *,
    store: StoreOption = None,
    governor: Annotated[str | None, typer.Option(metavar="GOVERNOR", help="Only this governor.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be done, but write nothing.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take a store that is gone for good out of all clocks. What it writes from then on is not synced any more."""

    async def look() -> None:
        async with opened(store) as opened_store:
            report = await retire_store(opened_store, store_id, governor_id=governor, dry_run=True)
            await check_named(opened_store, store_id, governor, report)

    if not (yes or dry_run):
        run(look)
    confirm(f"Retire store {store_id!r}, so that what it writes from now on cannot be synced?", yes=yes or dry_run)

    async def command() -> None:
        async with opened(store) as opened_store:
            report = await retire_store(opened_store, store_id, governor_id=governor, dry_run=dry_run)
            if not dry_run:
                await check_named(opened_store, store_id, governor, report)
        if as_json:
            print_json({**plain(report), "complete": report.complete})
        else:
            if report.failed:
                print_table(["state", "why"], [list(each) for each in report.failed])
            checked = counted(report.checked, "state")
            print_line(f"{checked} checked, {report.retired:,} of which named the store in the clock")
        if not report.complete:
            raise typer.Exit(INCONSISTENT)

    run(command)


async def check_named(store: StateStore, store_id: str, governor: str | None, report: RetirementReport) -> None:
    """Raise ``StoreNotNamed`` if no clock names a store, and it was not retired before."""
    if report.complete and not report.retired and not await is_retired(store.core, store_id, governor):
        raise StoreNotNamed(store_id)


def conflicts(
    governor: GovernorArgument,
    *,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the resolved conflicts and the dropped changes."""
    run(
        lambda: print_found(
            store,
            lambda opened_store, damage: conflicts_of(opened_store.core, governor, damage.report),
            as_json=as_json,
            fields=plain,
            columns=["state_id", "version", "timestamp", "strategy", "discarded"],
            row=_row,
            none="no conflicts",
        )
    )


def _row(each: RecordedConflict) -> list[Any]:
    return [each.state_id, each.version, each.timestamp, ", ".join(each.strategies), _values(each.discarded)]


def _values(discarded: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {each["path"] or "the whole state": each.get("value") for each in discarded}
