"""The command that shows which time-outs of machines stand in a store: timers."""

from __future__ import annotations

from typing import Annotated

import typer

from tai_state.cli.common import JsonOption, StoreOption, print_found, run
from tai_state.cli.loading import load_definitions
from tai_state.cli.output import plain
from tai_state.machines.catalogue import Catalogue
from tai_state.machines.timers import list_timers
from tai_state.values.times import format_time, parse_time


def timers(
    *,
    due_before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Show only those that are due before this time (RFC 3339).")
    ] = None,
    definitions_name: Annotated[
        str | None,
        typer.Option("--app", metavar="MODULE:ATTRIBUTE", help="The definitions of the machines, for the targets."),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the time-outs of machines, in order of time."""
    before = None if due_before is None else format_time(parse_time(due_before))
    catalogue = None if definitions_name is None else Catalogue(load_definitions(definitions_name))

    run(
        lambda: print_found(
            store,
            lambda opened_store, damage: list_timers(opened_store.core, catalogue, before, damage.report),
            as_json=as_json,
            fields=plain,
            columns=["due", "governor", "state_id", "state", "target"],
            row=lambda each: [each.due, each.governor_id, each.state_id, each.state, each.target or ""],
            none="no time-outs",
        )
    )
