"""Commands that only read: ls, show, history, diff, stats."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from tai_state.cli.common import (
    AppOption,
    Damage,
    GovernorArgument,
    JsonOption,
    StateArgument,
    StoreOption,
    UsageError,
    print_found,
    run,
)
from tai_state.cli.loading import load_reducers
from tai_state.cli.output import cell, plain, print_facts, print_json, print_table, say
from tai_state.errors import StateNotFound
from tai_state.history.extents import extent_of
from tai_state.history.folding import Reducers
from tai_state.history.persister import StateMachinePersister
from tai_state.history.unfinished import unfinished_restore, unfinished_restores
from tai_state.store.opening import open_to_look
from tai_state.store.store import StateStore
from tai_state.streams.core import Core
from tai_state.streams.layout import Stream
from tai_state.streams.reading import count_states, get_stats, list_states
from tai_state.streams.salvaging import sound_events
from tai_state.streams.sizes import get_size
from tai_state.streams.surveying import every_governor
from tai_state.values.events import JsonEvent
from tai_state.values.metadata import ChangeMetadata
from tai_state.values.patch import Operation
from tai_state.values.patch import diff as difference
from tai_state.values.states import JsonState
from tai_state.values.times import format_time, parse_time


def ls(
    governor: Annotated[
        str | None, typer.Argument(metavar="GOVERNOR", help="List its states; without it, list all governors.")
    ] = None,
    *,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all governors, or the states of one."""

    def rows(opened_store: StateStore, damage: Damage) -> AsyncGenerator[dict[str, Any], None]:
        return _governors(opened_store, damage) if governor is None else _states(opened_store, governor, damage)

    run(
        lambda: print_found(
            store,
            rows,
            as_json=as_json,
            fields=dict,
            columns=["governor", "states"] if governor is None else ["state_id", "version", "data", "timestamp"],
            row=lambda each: list(each.values()),
            none="no governors" if governor is None else "no states",
        )
    )


async def _governors(store: StateStore, damage: Damage) -> AsyncGenerator[dict[str, Any], None]:
    for restore in await unfinished_restores(store.core):
        damage.report(restore)
    for each in await every_governor(store.core, damage.report):
        yield {"governor": each, "states": await count_states(store.core, each, damage.report)}


async def _states(store: StateStore, governor: str, damage: Damage) -> AsyncGenerator[dict[str, Any], None]:
    if (restore := await unfinished_restore(store.core, governor)) is not None:
        damage.report(restore)
    async for each in list_states(store.core, governor, report=damage.report):
        yield {"state_id": each.state_id, "version": each.version, "data": each.data, "timestamp": each.timestamp}


def show(
    governor: GovernorArgument,
    state: StateArgument,
    *,
    version: Annotated[int | None, typer.Option(min=1, help="Show the state at this version.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Show the state at this time (RFC 3339).")] = None,
    reducers_name: AppOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a state as it is now, or as it was at a version or a time."""
    if version is not None and at is not None:
        raise UsageError("give --version or --at, not both")
    moment = None if at is None else parse_time(at)
    reducers = load_reducers(reducers_name)

    async def command() -> None:
        damage = Damage(as_json=as_json)
        async with open_to_look(store, damage.report) as opened_store:
            when = version if moment is None else moment
            found = await _state_at(opened_store, governor, state, when, reducers)
        print_facts(_state_fields(found), as_json=as_json, columns=("field", "value"))
        damage.end()

    run(command)


def history(
    governor: GovernorArgument,
    state: StateArgument,
    *,
    after: Annotated[int, typer.Option(min=0, help="Show only events after this version.")] = 0,
    limit: Annotated[int | None, typer.Option(min=0, help="Show at most this many events.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Show only the last events, at most this many.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the events of a state, oldest first."""
    if last is not None and (after or limit is not None):
        raise UsageError("give --last, or --after and --limit, not both")

    async def events(opened_store: StateStore, damage: Damage) -> AsyncGenerator[JsonEvent, None]:
        core = opened_store.core
        stream = core.layout.stream(governor, state)
        begin = after if last is None else await _before_last(core, stream, last)
        async for event in sound_events(core, stream, damage.report, after=begin, limit=limit):
            yield event

    run(
        lambda: print_found(
            store,
            events,
            as_json=as_json,
            fields=_event_fields,
            columns=["version", "timestamp", "action", "by", "change"],
            row=_event_row,
            none="no events",
        )
    )


async def _before_last(core: Core, stream: Stream, last: int) -> int:
    """The version after which the last events of a state begin: one read, unless the state's document is damaged."""
    [document] = (await core.engine.read([stream.state])).documents
    return max(0, (await extent_of(core, stream, document)).version - last)


def diff(
    governor: GovernorArgument,
    state: StateArgument,
    one: Annotated[int, typer.Argument(metavar="N", min=1, help="A version.")],
    other: Annotated[int, typer.Argument(metavar="M", min=1, help="Another version.")],
    *,
    reducers_name: AppOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what changed between two versions of a state. Prints a JSON patch (RFC 6902) from N to M."""
    reducers = load_reducers(reducers_name)

    async def command() -> None:
        damage = Damage(as_json=as_json)
        async with open_to_look(store, damage.report) as opened_store:
            before = await _state_at(opened_store, governor, state, one, reducers)
            after = await _state_at(opened_store, governor, state, other, reducers)
        patch = difference(before.data, after.data)
        if as_json:
            print_json(patch)
        elif patch:
            print_table(["op", "path", "value"], [[each["op"], each["path"], each.get("value", "")] for each in patch])
        else:
            say("no difference")
        damage.end()

    run(command)


def stats(
    *,
    size: Annotated[bool, typer.Option("--size", help="Also the size, which reads every document.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count what the store holds."""

    async def command() -> None:
        damage = Damage(as_json=as_json)
        async with open_to_look(store, damage.report) as opened_store:
            for restore in await unfinished_restores(opened_store.core):
                damage.report(restore)
            counts = plain(await get_stats(opened_store.core, damage.report))
            if size:
                counts |= plain(await get_size(opened_store.core, damage.report))
        print_facts(counts, as_json=as_json)
        damage.end()

    run(command)


async def _state_at(
    store: StateStore, governor: str, state: str, when: int | datetime | None, reducers: Reducers
) -> JsonState:
    """A state as it is now, or as it was at a version or a time.

    Raises:
        StateNotFound: there is none. A note on the error completes its sentence with what was found instead.
    """
    try:
        if when is None:
            return await store.get_state(governor, state)
        return await StateMachinePersister(store, reducers).get_state_at(governor, state, when)
    except StateNotFound as error:
        error.add_note(await _instead(store, governor, state, when))
        raise


async def _instead(store: StateStore, governor: str, state: str, when: int | datetime | None) -> str:
    if when is None:
        found = await store.core.read_state(store.core.layout.stream(governor, state))
        return f": it was deleted at version {found[1].version}" if found is not None and found[1].deleted else ""
    if isinstance(when, int):
        return ""  # the error says it
    try:
        async for first in store.get_events(governor, state, limit=1):
            return f" at {format_time(when)}: its first event is from {format_time(first.timestamp)}"
    except StateNotFound:
        pass
    return ""


def _state_fields(state: JsonState) -> dict[str, Any]:
    return {
        "governor": state.governor_id,
        "state_id": state.state_id,
        "version": state.version,
        "data": state.data,
        "timestamp": state.timestamp,
        "recorded_at": state.recorded_at,
        "metadata": _metadata_fields(state.metadata),
        "deleted": state.deleted,
    }


def _event_fields(event: JsonEvent) -> dict[str, Any]:
    fields = plain(event)
    fields["metadata"] = _metadata_fields(event.metadata)
    return {"id" if name == "event_id" else name: value for name, value in fields.items()}


def _metadata_fields(metadata: ChangeMetadata) -> dict[str, Any]:
    """Who made the change and why; the trace only if there is one."""
    fields = msgspec.structs.asdict(metadata)
    if not metadata.trace:
        del fields["trace"]
    return fields


def _event_row(event: JsonEvent) -> list[Any]:
    if event.to_state is None:  # deleted, or only a reducer can make the state
        change = "" if event.payload is None else cell(event.payload)
    else:
        change = ", ".join(map(_change, difference(event.from_state or {}, event.to_state)))
    return [event.version, event.timestamp, event.action, event.metadata.changed_by, change]


def _change(operation: Operation) -> str:
    name = operation["path"][1:]
    return f"{name} removed" if operation["op"] == "remove" else f"{name}={cell(operation['value'])}"
