"""The adapter for machines of python-statemachine; it needs the extra ``statemachine``.

Three private names of the library are used here: ``_engine`` starts and ends a machine, ``_callbacks`` shows which
states invoke work, and ``_put_nonblocking`` is where every event passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, Final, overload

from tai_state.adapters.adapter import Adapter
from tai_state.adapters.attributes import Attributes, C
from tai_state.adapters.charts import JOIN, Chart, ChartRecord, unknown_state
from tai_state.adapters.handle import AfterCommit
from tai_state.adapters.library import check_names, finished, imported, refusal
from tai_state.engines.loops import is_in_trio
from tai_state.errors import InvalidData, InvalidDefinition
from tai_state.streams.core import HasCore
from tai_state.values.checks import check_callable, seconds_option
from tai_state.values.metadata import ChangeMetadata, check_text

if TYPE_CHECKING:
    from statemachine import StateChart

LIBRARY: Final = "python-statemachine"

GIVEN: Final = frozenset(("event", "event_data", "machine", "model", "source", "state", "target", "transition"))
"""The names of arguments that the library gives to callbacks itself."""
TAKEN: Final = frozenset(("delay", "internal", "key", "on_error", "self", "send_id"))
"""The names of arguments that the library takes itself."""

_UNSET: Final = ""
"""A state that no machine has: a model that has it is not started when its machine is made."""

_ERROR: Final = "error.execution"


class StatemachineAdapter(Adapter[C]):
    """Stores machines of python-statemachine: each event that one takes is one commit.

    Args:
        store: an open store.
        machine: makes a machine from a model: the class of the machine, or a function. A machine is made for each
            event, and once when the adapter is made.
        model: makes the model of a machine; None: the machine has no model of its own.
        state_field: the attribute of the model that holds the state.
        context: a pydantic model, whose fields name the attributes that are kept beside the configuration: those of the
            model, or of the machine itself if it has no model of its own. None: none are kept.
        name: the name of the machine as it is stored; by default, that of its class.
        after_commit: is called with each step, once in the process that took it, after its commit is acknowledged; it
            may be asynchronous. If it raises, the step stands, and the error is logged.
        timeout_seconds: how long the asynchronous callbacks of one event may take, and ``after_commit``, too.
        metadata: who makes the changes and why, unless a handle or a change names it.

    Raises:
        InvalidDefinition: a state invokes work, or an event is delayed, which lives in memory alone; or two states have
            the same id.
        InvalidData: an argument is not what it must be.
        ModuleNotFoundError: python-statemachine is not installed.
        TypeError, ValueError: ``timeout_seconds`` is not a number of seconds.
        RuntimeError: the store is not open.
    """

    @overload
    def __init__(
        self: StatemachineAdapter[None],
        store: HasCore,
        machine: Callable[[Any], StateChart[Any]],
        *,
        model: Callable[[], Any] | None = None,
        state_field: str = "state",
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
        machine: Callable[[Any], StateChart[Any]],
        *,
        model: Callable[[], Any] | None = None,
        state_field: str = "state",
        context: type[C],
        name: str | None = None,
        after_commit: AfterCommit[C] | None = None,
        timeout_seconds: float = 30.0,
        metadata: ChangeMetadata | None = None,
    ) -> None: ...
    def __init__(
        self,
        store: HasCore,
        machine: Callable[[Any], StateChart[Any]],
        *,
        model: Callable[[], Any] | None = None,
        state_field: str = "state",
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
        library = _Statecharts(machine, model, check_text(state_field, "state_field"), name, attributes, seconds)
        super().__init__(store, library, attributes, after_commit, seconds, metadata)


class _Bare:
    """The model of a machine that has none of its own."""

    state: Any = None


class _Statecharts:
    """Makes the machines of one class, and runs their events: a ``Library``."""

    def __init__(
        self,
        make: Callable[[Any], Any],
        model: Callable[[], Any] | None,
        state_field: str,
        name: str | None,
        attributes: Attributes[Any],
        timeout_seconds: float,
    ) -> None:
        self._library: Any = imported("statemachine")
        self._async_engine: Any = import_module("statemachine.engines.async_").AsyncEngine
        self._set: Any = import_module("statemachine.orderedset").OrderedSet
        self._make = make
        self._model = model
        self._field = state_field
        self._attributes = attributes
        self._timeout_seconds = timeout_seconds
        self._probe: Any = self._made(_UNSET)
        self.name: str = check_text(self._probe.name if name is None else name, "name")
        states: list[Any] = list(self._probe.states_map.values())
        self._states: dict[str, Any] = {state.id: state for state in states}
        self._histories: set[str] = {history.id for state in states for history in state.history}
        if len(self._states) < len(states):
            raise InvalidDefinition(self.name, "two of its states have the same id, by which they are stored")
        if late := sorted(str(event) for event in self._probe.events if event.delay):
            raise InvalidDefinition(self.name, _delayed(late[0]))

    async def begin(self, context: dict[str, Any] | None, path: str) -> Chart:
        """See ``Library``."""
        machine = self._made(_UNSET)
        if context is not None:
            self._attributes.set_on(self._bearer(machine), context, path)
        watch = _Watch(machine)
        setattr(machine.model, self._field, None)

        def start() -> Any:
            machine._engine.start()
            return machine.activate_initial_state()

        await self._ended(watch, start)
        return self._became(machine, None, path)

    async def run(self, chart: Chart, event: str, arguments: dict[str, Any], path: str) -> Chart:
        """See ``Library``."""
        before = chart.chart
        values = [self._states[each].value for each in before.configuration]
        machine = self._made(values[0] if len(values) == 1 else self._set(values))
        for history, ids in before.history.items():
            machine.history_values[history] = [self._states[each] for each in ids]
        if before.is_final:
            machine._engine.running = False
        self._attributes.set_on(self._bearer(machine), chart.context, path)
        watch = _Watch(machine)
        try:
            await self._ended(watch, partial(machine.send, event, **arguments))
        except self._library.exceptions.TransitionNotAllowed as error:
            if watch.has_taken or error.event != event:
                raise
            raise refusal(before, event, _allowed(machine), path) from error
        if not watch.has_taken:
            raise refusal(before, event, _allowed(machine), path)
        return self._became(machine, chart.context, path)

    def check(self, chart: ChartRecord, path: str) -> None:
        """See ``Library``."""
        known = f"adapter of the {LIBRARY} machine {self.name!r}"
        if (chart.library, chart.name) != (LIBRARY, self.name):
            raise unknown_state(chart, known, "is of another one", path)
        active = set(chart.configuration)
        remembered = {each for ids in chart.history.values() for each in ids}
        lost = sorted(((active | remembered) - self._states.keys()) | (chart.history.keys() - self._histories))
        if lost:
            raise unknown_state(chart, known, f"has no {', '.join(lost)}", path)
        for state in map(self._states.__getitem__, chart.configuration):
            children = {each.id for each in state.states}
            is_whole = children <= active if state.parallel else not children or children & active
            if not is_whole or (state.parent is not None and state.parent.id not in active):
                raise unknown_state(chart, known, f"nests {state.id!r} otherwise", path)
        if not active:
            raise unknown_state(chart, known, "is always in a state", path)

    def check_event(self, event: str, arguments: dict[str, Any]) -> None:
        """See ``Library``."""
        known = getattr_static(self._probe, event, None)
        if event.startswith("__") or not event or (known is not None and not isinstance(known, self._library.Event)):
            raise InvalidData(f"the machine {self.name!r} cannot have an event {event!r}")
        check_names(arguments, GIVEN | TAKEN, LIBRARY)

    def _made(self, state: Any) -> Any:
        """A machine whose model is in a state, so that it is not started.

        Raises:
            InvalidDefinition: a state invokes work.
            InvalidData: what was made is not a machine of this library, or not with this model.
        """
        model: Any = _Bare() if self._model is None else self._model()
        setattr(model, self._field, state)
        machine: Any = self._make(model)
        if not isinstance(machine, self._library.StateChart):
            raise InvalidData(f"machine must make a StateChart of {LIBRARY}, not {type(machine).__name__}")
        if machine.model is not model or machine.state_field != self._field:
            raise InvalidData(f"machine must pass on its model, whose state is in the attribute {self._field!r}")
        if is_in_trio() and isinstance(machine._engine, self._async_engine):
            raise InvalidData(f"the machine {machine.name!r} is asynchronous, and {LIBRARY} needs asyncio for that")
        for each in machine.states_map.values():
            if each.invoke.key in machine._callbacks:
                what = f"its state {each.id!r} invokes work, which lives in memory alone"
                raise InvalidDefinition(machine.name, what)
        return machine

    def _bearer(self, machine: Any) -> Any:
        """The object whose attributes are kept."""
        return machine if self._model is None else machine.model

    async def _ended(self, watch: _Watch, run: Callable[[], Any]) -> None:
        """Let a machine run its events, and wait until it has.

        Raises:
            Exception: what a callback raised, also if the machine turned it into an event that no transition takes.
        """
        try:
            await finished(run(), self._timeout_seconds)
        finally:
            watch.end()
        watch.check()

    def _became(self, machine: Any, before: dict[str, Any] | None, path: str) -> Chart:
        """What is stored of a machine."""
        active: list[Any] = list(machine.configuration)
        record = ChartRecord(
            library=LIBRARY,
            name=self.name,
            state=JOIN.join(each for each, state in self._states.items() if state in active and not state.states),
            configuration=tuple(each.id for each in active),
            history={name: tuple(each.id for each in states) for name, states in machine.history_values.items()},
            is_final=machine.is_terminated,
        )
        return Chart(record, self._attributes.read_from(self._bearer(machine), before, path))


class _Listener:
    """Has one method alone: the library takes any other for a callback of that name."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch

    def after_transition(self, event_data: Any) -> None:
        self._watch.taken(event_data.trigger_data)


class _Watch:
    """Sees what a machine does: by a listener of it, and at the place where its events pass."""

    def __init__(self, machine: Any) -> None:
        self.has_taken = False
        self._name: str = machine.name
        self._put: Callable[..., None] = machine._put_nonblocking
        self._is_over = False
        self._refused: Exception | None = None
        self._errors: list[Any] = []
        machine._put_nonblocking = self._passed
        machine.add_listener(_Listener(self))

    def taken(self, trigger_data: Any) -> None:
        """A transition was taken; if it takes an error, the machine has dealt with that."""
        self.has_taken = True
        self._errors = [each for each in self._errors if each is not trigger_data]

    def end(self) -> None:
        """From now on, the machine takes no event: nobody would store what became of it."""
        self._is_over = True

    def check(self) -> None:
        """Check that all went well.

        Raises:
            Exception: what was refused, or what a callback raised and no transition took.
        """
        if self._refused is not None:
            raise self._refused
        if self._errors:
            raise self._errors[0].kwargs["error"]

    def _passed(self, trigger_data: Any, internal: bool = False) -> None:  # noqa: FBT001, FBT002 - as the library calls it
        if self._is_over:
            raise RuntimeError(f"the event of {self._name} is over: send the next one by its handle")
        if trigger_data.event.delay:
            self._refused = self._refused or InvalidDefinition(self._name, _delayed(str(trigger_data.event)))
            raise self._refused
        if trigger_data.event == _ERROR:
            self._errors.append(trigger_data)
        self._put(trigger_data, internal)


def _delayed(event: str) -> str:
    return f"its event {event!r} is delayed, and a delay lives in memory alone"


def _allowed(machine: Any) -> Sequence[str]:
    """The events that lead on from a machine's configuration, whatever their conditions."""
    return [str(each) for each in machine.allowed_events]
