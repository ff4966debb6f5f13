"""The adapter for machines of transitions; it needs the extra ``transitions``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, overload

from tai_state.adapters.adapter import Adapter
from tai_state.adapters.attributes import Attributes, C
from tai_state.adapters.charts import JOIN, Chart, ChartRecord, unknown_state
from tai_state.adapters.handle import AfterCommit
from tai_state.adapters.library import check_names, finished, imported, refusal
from tai_state.engines.loops import is_in_trio
from tai_state.errors import InvalidData, InvalidDefinition, InvalidTransition
from tai_state.streams.core import HasCore
from tai_state.values.checks import check_callable, seconds_option
from tai_state.values.metadata import ChangeMetadata, check_text

if TYPE_CHECKING:
    from transitions import Machine

LIBRARY: Final = "transitions"

RESERVED: Final = frozenset(("model", "self", "trigger"))
"""The names of arguments that the library takes itself."""

IDLE_MAX: Final = 16
"""How many machines are kept for the next events."""


class TransitionsAdapter(Adapter[C]):
    """Stores machines of transitions: each event that one takes is one commit.

    Args:
        store: an open store.
        machine: makes a machine: its class, or a function.
        model: makes a model. The machine must then be made without one: machines are kept, and used again with a new
            model for each event. None: a machine is made for each event, with one model of its own, which may be the
            machine itself. Making a machine of many nested states takes the library long.
        context: a pydantic model, whose fields name the attributes of the model that are kept beside its state. None:
            none are kept.
        name: the name of the machine as it is stored; by default, that of the model's class.
        after_commit: is called with each step, once in the process that took it, after its commit is acknowledged; it
            may be asynchronous. If it raises, the step stands, and the error is logged.
        timeout_seconds: how long the asynchronous callbacks of one event may take, and ``after_commit``, too.
        metadata: who makes the changes and why, unless a handle or a change names it.

    Raises:
        InvalidDefinition: a state has a time-out, counts retries or is volatile, which lives in memory alone.
        InvalidData: an argument is not what it must be.
        ModuleNotFoundError: transitions is not installed.
        TypeError, ValueError: ``timeout_seconds`` is not a number of seconds.
        RuntimeError: the store is not open.
    """

    @overload
    def __init__(
        self: TransitionsAdapter[None],
        store: HasCore,
        machine: Callable[[], Machine],
        *,
        model: Callable[[], Any] | None = None,
        context: None = None,
        name: str | None = None,
        after_commit: AfterCommit[None] | None = None,
        timeout_seconds: float = 30.0,
        metadata: ChangeMetadata | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        store: HasCore,
        machine: Callable[[], Machine],
        *,
        model: Callable[[], Any] | None = None,
        context: type[C],
        name: str | None = None,
        after_commit: AfterCommit[C] | None = None,
        timeout_seconds: float = 30.0,
        metadata: ChangeMetadata | None = None,
    ) -> None: ...
    def __init__(
        self,
        store: HasCore,
        machine: Callable[[], Machine],
        *,
        model: Callable[[], Any] | None = None,
        context: type[Any] | None = None,
        name: str | None = None,
        after_commit: AfterCommit[Any] | None = None,
        timeout_seconds: float = 30.0,
        metadata: ChangeMetadata | None = None,
    ) -> None:
        check_callable(machine, "machine")
        if model is not None:
            check_callable(model, "model")
        seconds = seconds_option(timeout_seconds, "timeout_seconds")
        attributes = Attributes(context)
        super().__init__(
            store, _Machines(machine, model, name, attributes, seconds), attributes, after_commit, seconds, metadata
        )


class _Machines:
    """Makes machines of one kind, and runs their events: a ``Library``."""

    def __init__(
        self,
        make: Callable[[], Any],
        model: Callable[[], Any] | None,
        name: str | None,
        attributes: Attributes[Any],
        timeout_seconds: float,
    ) -> None:
        self._library: Any = imported("transitions")
        self._nested: Any = import_module("transitions.extensions").HierarchicalMachine
        self._async: Any = import_module("transitions.extensions.asyncio").AsyncMachine
        self._make = make
        self._model = model
        self._attributes = attributes
        self._timeout_seconds = timeout_seconds
        self._idle: list[_Watched] = []
        used = self._borrowed()
        self.name: str = check_text(type(used.model).__name__ if name is None else name, "name")
        self._is_nested = isinstance(used.machine, self._nested)
        names: list[str] = used.machine.get_nested_state_names() if self._is_nested else list(used.machine.states)
        self._names = {name: place for place, name in enumerate(names)}
        for each in names:
            if what := _in_memory(used.machine.get_state(each)):
                raise InvalidDefinition(self.name, f"its state {each!r} {what}, which lives in memory alone")
        self._autos: frozenset[str] = frozenset(_autos(used.machine, names))
        self._probe: Any = used.machine
        self._given_back(used)

    async def begin(self, context: dict[str, Any] | None, path: str) -> Chart:
        """See ``Library``."""
        used = self._borrowed()
        if context is not None:
            self._attributes.set_on(used.model, context, path)
        chart = self._became(used, None, path)
        self._given_back(used)
        return chart

    async def run(self, chart: Chart, event: str, arguments: dict[str, Any], path: str) -> Chart:
        """See ``Library``."""
        before = chart.chart
        used = self._borrowed()
        machine, model = used.machine, used.model
        machine.set_state(self._state_of(machine, before.configuration), model)
        self._attributes.set_on(model, chart.context, path)
        try:
            run = machine.trigger_event if self._is_nested else machine.events[event].trigger
            said = (model, event) if self._is_nested else (model,)
            await finished(run(*said, **arguments), self._timeout_seconds)
        except self._library.MachineError as error:
            refused = self._refusal(machine, before, event, path)
            if used.has_taken or event in refused.allowed or event in self._autos:
                raise
            self._given_back(used)
            raise refused from error
        used.check()
        if not used.has_taken:
            refused = self._refusal(machine, before, event, path)
            self._given_back(used)
            raise refused
        became = self._became(used, chart.context, path)
        self._given_back(used)
        return became

    def check(self, chart: ChartRecord, path: str) -> None:
        """See ``Library``."""
        known = f"adapter of the {LIBRARY} machine {self.name!r}"
        if (chart.library, chart.name) != (LIBRARY, self.name):
            raise unknown_state(chart, known, "is of another one", path)
        if lost := sorted(set(chart.configuration) - self._names.keys()):
            raise unknown_state(chart, known, f"has no {', '.join(lost)}", path)
        if not chart.configuration or (len(chart.configuration) > 1 and not self._is_nested):
            raise unknown_state(chart, known, "is always in one state", path)

    def check_event(self, event: str, arguments: dict[str, Any]) -> None:
        """See ``Library``."""
        has_event = self._probe.has_trigger(event) if self._is_nested else event in self._probe.events
        if not has_event:
            raise InvalidData(f"the machine {self.name!r} has no event {event!r}")
        check_names(arguments, RESERVED, LIBRARY)

    def _borrowed(self) -> _Watched:
        """A machine that nobody uses, with a model at its initial state.

        Raises:
            InvalidData: what was made is not a machine of this library with one model.
        """
        if self._idle:
            used = self._idle.pop()
        else:
            machine: Any = self._make()
            if not isinstance(machine, self._library.Machine):
                raise InvalidData(f"machine must make a Machine of {LIBRARY}, not {type(machine).__name__}")
            if len(machine.models) != (self._model is None):
                needs = "one model" if self._model is None else "no model, since the adapter makes them"
                raise InvalidData(f"machine must make a Machine with {needs}, and it has {len(machine.models)}")
            if is_in_trio() and isinstance(machine, self._async):
                raise InvalidData(f"{type(machine).__name__} is asynchronous, and {LIBRARY} needs asyncio for that")
            used = _Watched(machine)
        if self._model is not None:
            used.machine.add_model(self._model())
        used.begin(used.machine.models[0])
        return used

    def _given_back(self, used: _Watched) -> None:
        """Keep a machine for the next event, if its model can be replaced; one that failed is not given back."""
        if self._model is not None and len(self._idle) < IDLE_MAX:
            used.machine.remove_model(used.model)
            self._idle.append(used)

    def _became(self, used: _Watched, before: dict[str, Any] | None, path: str) -> Chart:
        """What is stored of a machine."""
        state: Any = getattr(used.model, used.machine.model_attribute)
        if self._is_nested:
            separator = used.machine.state_cls.separator
            tree = used.machine.build_state_tree(state if isinstance(state, list) else [state], separator)
            names = [*_leaves(tree, separator, "")]
        else:
            names = [used.machine.get_state(state).name]
        state = JOIN.join(sorted(names, key=self._names.__getitem__))
        record = ChartRecord(library=LIBRARY, name=self.name, state=state, configuration=tuple(names))
        return Chart(record, self._attributes.read_from(used.model, before, path))

    def _state_of(self, machine: Any, configuration: tuple[str, ...]) -> Any:
        """A configuration as a machine of the library holds it: a name, or a list of lists of names."""
        if not self._is_nested:
            return configuration[0]
        separator = machine.state_cls.separator
        return _listed(machine.build_state_tree(list(configuration), separator), separator, "")

    def _refusal(self, machine: Any, before: ChartRecord, event: str, path: str) -> InvalidTransition:
        found: list[str] = machine.get_triggers(*before.configuration)
        return refusal(before, event, [each for each in found if each not in self._autos], path)


class _Watched:
    """A machine, and what it does in one event: callbacks of it tell."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.model: Any = None
        self.has_taken = False
        self._errors: list[BaseException] = []
        machine.after_state_change.insert(0, self._taken)
        if machine.on_exception:  # without it, the library itself raises
            machine.on_exception.insert(0, self._failed)

    def begin(self, model: Any) -> None:
        """A new event begins, with this model."""
        self.model, self.has_taken, self._errors = model, False, []

    def check(self) -> None:
        """Check that no error was taken by ``on_exception`` alone.

        Raises:
            Exception: what a callback raised, and no transition followed.
        """
        if self._errors:
            raise self._errors[0]

    def _taken(self, *_arguments: Any, **_named: Any) -> None:
        self.has_taken = True
        self._errors = []

    def _failed(self, *arguments: Any, **_named: Any) -> None:
        error: BaseException | None = sys.exception()
        if error is None and self.machine.send_event:
            error = arguments[0].error
        self._errors.append(error or RuntimeError("a callback raised an error, which only on_exception was told of"))


def _in_memory(state: Any) -> str:
    """What of a state lives in memory alone; empty if nothing does."""
    if getattr(state, "timeout", 0):
        return "has a time-out"
    if getattr(state, "retries", 0):
        return "counts retries"
    return "is volatile" if hasattr(state, "volatile_cls") else ""


def _autos(machine: Any, names: list[str]) -> Iterator[str]:
    """The events that the library adds by itself, one for each state."""
    if machine.auto_transitions:
        infix = "" if machine.model_attribute == "state" else f"{machine.model_attribute}_"
        yield from (f"to_{infix}{each}" for each in names)
        yield from (f"to_{each}" for each in names)


def _leaves(tree: Mapping[str, Any], separator: str, prefix: str) -> Iterator[str]:
    """The names of the innermost states of a tree."""
    for name, below in tree.items():
        if below:
            yield from _leaves(below, separator, f"{prefix}{name}{separator}")
        else:
            yield f"{prefix}{name}"


def _listed(tree: Mapping[str, Any], separator: str, prefix: str) -> Any:
    """A tree as a list, with a list for each state that is in several at once; what would be a list of one, itself."""
    found = [
        _listed(below, separator, f"{prefix}{name}{separator}") if below else f"{prefix}{name}"
        for name, below in tree.items()
    ]
    return found if len(found) > 1 else found[0]
