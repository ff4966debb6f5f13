"""A page of the machines of a store, across its governors. What is damaged is named, and does not stop the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from tai_state.engines.api import Document, Scan
from tai_state.engines.api import after as right_after
from tai_state.engines.paging import Paged, mapped
from tai_state.errors import CorruptDocument, Inconsistent
from tai_state.machines.catalogue import Catalogue
from tai_state.machines.history import machine_in
from tai_state.streams.core import Core
from tai_state.streams.damage import misplaced
from tai_state.streams.reading import states_in
from tai_state.values.ids import escape_id, stored_id
from tai_state.values.states import DeletedState, JsonSnapshot
from tai_state.values.times import format_time
from tai_state.web.known import known
from tai_state.web.looking import problem_of, time_in_state_ms
from tai_state.web.views import EntryView, ProblemView, brief
from tai_state.web.wanted import Wanted

LOOKED_AT_MAX: Final = 1000
"""How many documents are looked at for one page. A page may be short for it, and still not be the last one."""


class Page:
    """A page of a list.

    Attributes:
        entries: the machines, in the order of their governors and ids.
        problems: the documents that are damaged.
        next: the governor and the id after which the next page begins; None: this is the last one.
    """

    def __init__(self) -> None:
        self.entries: list[EntryView] = []
        self.problems: list[ProblemView] = []
        self.next: tuple[str, str] | None = None

    def report(self, error: Inconsistent) -> None:
        """Note what is wrong with a document."""
        self.problems.append(problem_of(error))


async def page_of(core: Core, catalogue: Catalogue, wanted: Wanted) -> Page:
    """A page of machines. Each is as it stood at one moment; the page as a whole is not.

    Raises:
        GovernorNotFound: there is no governor of the id that is wanted.
    """
    page, left = Page(), LOOKED_AT_MAX
    last: tuple[str, str] | None = None
    async for governor_id in _governors(core, wanted, page):
        is_begun = wanted.after is not None and wanted.after[0] == governor_id
        start = right_after(escape_id(wanted.after[1])) if wanted.after is not None and is_begun else ""
        is_empty = not is_begun
        async for document in core.engine.scan(Scan(core.layout.states(governor_id), start=start, limit=left + 1)):
            if len(page.entries) == wanted.limit or left == 0:
                page.next = last
                return page
            is_empty, left = False, left - 1
            for state in states_in(core, governor_id, [document], page.report):
                entry = None if isinstance(state, DeletedState) else _entry(core, catalogue, state)
                if entry is not None and _is_wanted(entry, wanted):
                    page.entries.append(entry)
            with suppress(CorruptDocument):  # a page cannot end at a document whose id is none
                last = governor_id, stored_id(document.path)
        if is_empty and governor_id == wanted.governor:
            await core.require_governor(governor_id)
    return page


def _governors(core: Core, wanted: Wanted, page: Page) -> Paged[str]:
    """The governors whose machines are wanted, from the one at which the page begins."""
    if wanted.governor is not None:
        named = iter([[wanted.governor]])

        async def fetch() -> list[str] | None:
            return next(named, None)

        return Paged(fetch)

    def ids(documents: Iterable[Document]) -> Iterator[str]:
        for document in documents:
            try:
                yield stored_id(document.path)
            except CorruptDocument:
                page.report(misplaced(document.path, "a governor"))

    start = "" if wanted.after is None else escape_id(wanted.after[0])
    return mapped(core.engine.scan(Scan(core.layout.governors, start=start)), ids)


def _entry(core: Core, catalogue: Catalogue, state: JsonSnapshot) -> EntryView:
    """A state in the list, whether or not it is a machine that a definition knows."""
    path = core.layout.stream(state.governor_id, state.state_id).state
    try:
        found = known(catalogue, state, path)
    except Inconsistent as error:
        record, problem = machine_in(state.data), problem_of(error)
        if record is None:
            return EntryView(
                governor=state.governor_id, state_id=state.state_id, version=state.version, problem=problem
            )
        return EntryView(
            governor=state.governor_id,
            state_id=state.state_id,
            version=state.version,
            machine=brief(record.name),
            state=brief(record.state),
            epoch=record.epoch,
            entered_at=brief(record.entered_at),
            due=None if record.due is None else brief(record.due),
            problem=problem,
        )
    machine = found.snapshot
    return EntryView(
        governor=machine.governor_id,
        state_id=machine.state_id,
        version=machine.version,
        machine=found.definition.name,
        state=found.opened.record.state,
        description=machine.state.description,
        is_failure=machine.state.is_failure_state,
        is_terminal=machine.state.is_terminal,
        epoch=machine.epoch,
        entered_at=format_time(machine.entered_at),
        time_in_state_ms=time_in_state_ms(core, machine),
        due=None if machine.due is None else format_time(machine.due),
    )


def _is_wanted(entry: EntryView, wanted: Wanted) -> bool:
    """Whether the filters let an entry pass."""
    return (wanted.machines is None or entry.machine in wanted.machines) and wanted.state in {None, entry.state}
