"""Commands about machines: machines check, show, history, diagram, migrate."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from enum import Enum
from functools import partial
from typing import Annotated, Any

import typer

from tai_state.cli.common import (
    INCONSISTENT,
    Damage,
    GovernorArgument,
    JsonOption,
    StateArgument,
    StoreOption,
    UsageError,
    YesOption,
    confirm,
    need_command,
    opened,
    print_found,
    run,
)
from tai_state.cli.loading import load_definitions, load_migration, only_machine
from tai_state.cli.output import Progress, print_facts, print_json, print_line, print_table, say
from tai_state.errors import Inconsistent
from tai_state.machines.catalogue import Catalogue
from tai_state.machines.checking import check_machines
from tai_state.machines.definition import Definition
from tai_state.machines.drawing import to_dot, to_mermaid, to_table
from tai_state.machines.envelope import MachineRecord, read_envelope, unseal
from tai_state.machines.history import MachineEventRecord, machine_event
from tai_state.machines.migrating import MigrationReport, migrate_machines
from tai_state.machines.migrations import Migration, check_migration
from tai_state.machines.outlook import Outlook, outlooks
from tai_state.machines.reports import MachinesReport
from tai_state.store.opening import open_to_look
from tai_state.store.store import StateStore
from tai_state.streams.salvaging import sound_events
from tai_state.values.counting import counted

DefinitionsOption = Annotated[
    str,
    typer.Option("--app", metavar="MODULE:ATTRIBUTE", help="A definition, a list of them, or a migration to one."),
]
GovernorOption = Annotated[str | None, typer.Argument(metavar="GOVERNOR", help="The governor's id; by default, all.")]

_PROGRESS_EVERY = 1_000


class DiagramFormat(Enum):
    """How a diagram is written."""

    MERMAID = "mermaid"
    DOT = "dot"
    TEXT = "text"


_DRAWN: dict[DiagramFormat, Callable[[Definition[Any, Any], str | None], str]] = {
    DiagramFormat.MERMAID: to_mermaid,
    DiagramFormat.DOT: to_dot,
    DiagramFormat.TEXT: to_table,
}


def check(
    governor: GovernorOption = None,
    *,
    app_name: DefinitionsOption,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge every step again, and find stranded machines. Changes no document; exits with 4 if something is wrong."""
    definitions = load_definitions(app_name)

    async def command() -> None:
        with Progress() as line:

            async def progress(report: MachinesReport) -> None:
                if not as_json and report.machines % _PROGRESS_EVERY == 0:
                    line.show(f"{counted(report.machines, 'machine')} checked")

            async with open_to_look(store, _named_by_verify) as opened_store:
                report = await check_machines(opened_store, definitions, governor_id=governor, progress=progress)
        if as_json:
            names = ("consistent", "machines", "stranded", "illegal", "unchecked", "timers_moved", "findings")
            print_json({name: getattr(report, name) for name in names})
        else:
            _print_check(report)
        if not report.consistent:
            raise typer.Exit(INCONSISTENT)

    run(command)


def _print_check(report: MachinesReport) -> None:
    if report.findings:
        rows = [[each.kind, each.path, each.version or "", each.message] for each in report.findings]
        print_table(["kind", "path", "version", "message"], rows)
    names = ("illegal", "unchecked", "stranded", "corrupt", "forced", "migrated", "merged")
    counts = [f"{getattr(report, name):,} {name}" for name in names if getattr(report, name)]
    counts += [f"{counted(report.timers_moved, 'time-out')} moved"] if report.timers_moved else []
    outcome = "consistent" if report.consistent else "not consistent"
    seen = f"{counted(report.machines, 'machine')}, {counted(report.steps, 'allowed step')}"
    print_line(f"{seen}: {', '.join([outcome, *counts])}")
    if report.unchecked:
        say("steps of definitions that are not at hand are unchecked: pass older versions with --app, too")


def _named_by_verify(_: Inconsistent) -> None:
    """Go on although the store's own document is damaged: it says nothing of machines."""


def show(
    governor: GovernorArgument,
    state: StateArgument,
    *,
    app_name: DefinitionsOption,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a machine, and which steps it may take now. Says why not the others."""
    catalogue = Catalogue(load_definitions(app_name))

    async def command() -> None:
        damage = Damage(as_json=as_json)
        async with open_to_look(store, damage.report) as opened_store:
            path, data, record = await _machine(opened_store, governor, state)
        definition = catalogue.reading(record, path)
        facts = {
            "machine": record.name,
            "state": record.state,
            "epoch": record.epoch,
            "entered_at": record.entered_at,
            "due": record.due,
        }
        allowed = [*outlooks(definition, unseal(definition, data, path).present)]
        if as_json:
            print_json({**facts, "allowed": allowed})
        else:
            print_facts(facts, as_json=False, columns=("field", "value"))
            print_line("")
            print_table(["to", "if asked for now"], [[each.to, _said(each)] for each in allowed])
        damage.end()

    run(command)


def _said(outlook: Outlook) -> str:
    return "allowed" if outlook.refused_because is None else f"refused: {outlook.refused_because}"


async def _machine(store: StateStore, governor: str, state: str) -> tuple[str, dict[str, Any], MachineRecord]:
    """The path and the data of a machine's state, and the machine in it."""
    found = await store.get_state(governor, state)
    path = store.core.layout.stream(governor, state).state
    return path, found.data, read_envelope(found.data, path)[0]


def history(
    governor: GovernorArgument,
    state: StateArgument,
    *,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the events of a machine, oldest first. Whoever wrote them, it reads them."""
    run(
        lambda: print_found(
            store,
            lambda opened_store, damage: _events(opened_store, governor, state, damage),
            as_json=as_json,
            fields=_event_fields,
            columns=["version", "timestamp", "kind", "from", "to", "reason", "by"],
            row=_event_row,
            none="no events",
        )
    )


async def _events(
    store: StateStore, governor: str, state: str, damage: Damage
) -> AsyncGenerator[MachineEventRecord[Any], None]:
    stream = store.core.layout.stream(governor, state)
    async for event in sound_events(store.core, stream, damage.report):
        yield machine_event(event, None)


def _event_fields(event: MachineEventRecord[Any]) -> dict[str, Any]:
    return {
        "version": event.version,
        "from": event.from_state,
        "to": event.to_state,
        "trigger": None if event.trigger is None else str(event.trigger),
        "reason": event.reason,
        "timestamp": event.timestamp,
        "duration_us": event.duration_us,
        "kind": event.kind,
    }


def _event_row(event: MachineEventRecord[Any]) -> list[Any]:
    ends = [event.from_state or "", event.to_state or ""]
    return [event.version, event.timestamp, event.kind, *ends, event.reason, event.changed_by]


def diagram(
    governor: Annotated[str | None, typer.Argument(metavar="GOVERNOR", help="The governor of a machine.")] = None,
    state: Annotated[
        str | None, typer.Argument(metavar="STATE", help="The id of a machine, whose state is marked.")
    ] = None,
    *,
    app_name: DefinitionsOption,
    form: Annotated[DiagramFormat, typer.Option("--format", help="How it is written.")] = DiagramFormat.MERMAID,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a definition. With GOVERNOR and STATE, the state of that machine is marked."""
    catalogue = Catalogue(load_definitions(app_name))
    if governor is not None and state is None:
        raise UsageError("give GOVERNOR and STATE, or neither")

    async def marked(governor: str, state: str) -> tuple[Definition[Any, Any], str]:
        async with open_to_look(store, damage.report) as opened_store:
            path, _, record = await _machine(opened_store, governor, state)
        return catalogue.reading(record, path), record.state

    async def command() -> None:
        if governor is None or state is None:
            definition, current = only_machine(catalogue, app_name), None
        else:
            definition, current = await marked(governor, state)
        text = _DRAWN[form](definition, current)
        if as_json:
            print_json({"machine": definition.name, "format": form.value, "diagram": text})
        else:
            for each in text.splitlines():
                print_line(each)
        damage.end()

    damage = Damage(as_json=as_json)
    run(command)


def migrate(
    governor: GovernorOption = None,
    *,
    app_name: DefinitionsOption,
    named: Annotated[
        list[str], typer.Option("--map", metavar="OLD=NEW", help="The state that takes the place of another one.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge and count, but write nothing.")] = False,
    yes: YesOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move machines out of states that are no more. If interrupted, run it again to go on."""
    migration, states = load_migration(app_name), _states(named)
    check_migration(migration, states)
    moving = partial(_migrated, migration, states, store, governor, as_json=as_json)

    async def look() -> None:
        if moves := (await moving(dry_run=True)).moved:
            found.append(moves)

    found: list[int] = []
    if not (yes or dry_run):
        run(look)
    for moves in found:
        confirm(f"Move {counted(moves, 'machine')} to other states?", yes=yes)

    async def command() -> None:
        report = await moving(dry_run=dry_run)
        if as_json:
            refused = [{"path": path, "reason": why} for path, why in report.refused]
            print_json({"moved": report.moved, "left": report.left, "refused": refused})
        else:
            if report.refused:
                print_table(["refused", "why"], [list(each) for each in report.refused])
            would_be = "would be " if dry_run else ""
            print_line(f"{counted(report.moved, 'machine')} {would_be}moved, {report.left:,} left as they are")
        if not report.complete:
            raise typer.Exit(INCONSISTENT)

    run(command)


async def _migrated(
    migration: Migration[Any, Any],
    states: dict[str, str],
    store: str | None,
    governor: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> MigrationReport:
    """What a migration of a store's machines does, or would do."""
    with Progress() as line:

        async def progress(report: MigrationReport) -> None:
            if not as_json and (report.moved + report.left) % _PROGRESS_EVERY == 0:
                line.show(f"{counted(report.moved, 'machine')} moved, {report.left:,} left as they are")

        async with opened(store) as opened_store:
            return await migrate_machines(
                opened_store, migration, states, governor_id=governor, dry_run=dry_run, progress=progress
            )


def _states(named: Sequence[str]) -> dict[str, str]:
    """The states that take the place of others.

    Raises:
        UsageError: an option is malformed, or names a state twice.
    """
    states: dict[str, str] = {}
    for each in named:
        old, separator, new = each.partition("=")
        if not separator or not old or not new:
            raise UsageError(f"--map takes OLD=NEW, not {each!r}")
        if old in states:
            raise UsageError(f"--map names the state {old!r} twice")
        states[old] = new
    return states


app: typer.Typer = typer.Typer(
    name="machines",
    help="Check stored machines, show and draw them, migrate them.",
    rich_markup_mode=None,
)
app.callback(invoke_without_command=True)(need_command)
for _command in (check, show, history, diagram, migrate):
    app.command(_command.__name__)(_command)
