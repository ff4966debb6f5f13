"""The ready-made machines against plain tables: their states, flags, edges, events, forbidden steps and time-outs."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tai_state.errors import InvalidTransition
from tai_state.machines import Command, Definition, StateMachine
from tai_state.machines.ready import CONNECTION, COORDINATOR, INFERENCE_REQUEST, PARTITION, SYSTEM, WORKER
from tai_state.machines.soundness import check_reach

MACHINES: dict[str, Definition[Any, None]] = {
    "System": SYSTEM,
    "Coordinator": COORDINATOR,
    "Worker": WORKER,
    "Partition": PARTITION,
    "Connection": CONNECTION,
    "InferenceRequest": INFERENCE_REQUEST,
}
"""By the type of component."""

STATES = {
    "System": """
        Uninitialized | -o-- | System not initialized
        Bootstrapping | -o-- | Establishing cluster
        Ready         | -O-W | Ready for inference requests
        Computing     | -O-- | Executing distributed computation
        Degraded      | -O-- | Operating with failures
        Committing    | -O-- | Finalizing results
        Shutdown      | -o-- | Shutting down
        Terminated    | -oT- | Terminated
    """,
    "Coordinator": """
        Initializing | -O-- | Loading configuration and preparing
        Ready        | -O-W | Monitoring cluster, ready for work
        Computing    | -O-- | Coordinating distributed computation
        Aggregating  | -O-- | Collecting and validating results
        Committing   | -O-- | Finalizing Byzantine agreement
        Degraded     | -O-- | Operating with reduced capacity
        Recovering   | -O-- | Recovering from failures
        Failed       | FoT- | Coordinator has failed
    """,
    "Worker": """
        Initialized | -o-- |
        Joined      | -O-- |
        Ready       | -O-W |
        Computing   | -O-- |
        Aggregating | -O-- |
        Committing  | -O-- |
        Suspect     | -o-- |
        Failed      | FoT- |
    """,
    "Partition": """
        Unloaded    | -o-- |
        Downloading | -o-- |
        Validating  | -o-- |
        Loaded      | -o-- |
        Warming     | -o-- |
        Ready       | -O-W |
        InUse       | -O-- |
        Evicted     | -o-- |
    """,
    "Connection": """
        Connecting  | -o-- |
        Established | -O-W |
        Active      | -O-W |
        Idle        | -O-W |
        Suspected   | -o-- |
        Terminated  | -oT- |
    """,
    "InferenceRequest": """
        Queued     | -O-- | Waiting in queue
        Scheduled  | -O-- | Scheduled for execution
        Dispatched | -O-- | Dispatched to workers
        Executing  | -O-- | Executing on cluster
        Validating | -O-- | Validating results
        Completed  | -OT- | Successfully completed
        Failed     | FoT- | Failed with error
        Cancelled  | FoT- | Cancelled
    """,
}
"""Flags: F failure, O operational, T terminal, W accepts new work. Descriptions where Butterfly has one."""

EDGES = {
    "System": """
        Uninitialized → Bootstrapping bootstrap
        Bootstrapping → Ready quorum_established
        Ready → Computing begin_inference
        Computing → Committing all_phases_complete
        Computing → Degraded failure_detected
        Committing → Ready result_committed
        Degraded → Ready recovery_complete
        Degraded → Shutdown quorum_lost
        Ready → Shutdown shutdown_initiated
        Computing → Shutdown shutdown_initiated
        Shutdown → Terminated cleanup_complete
    """,
    "Coordinator": """
        Initializing → Ready
        Ready → Computing
        Computing → Aggregating
        Aggregating → Committing
        Committing → Ready
        Initializing → Degraded
        Ready → Degraded
        Computing → Degraded
        Aggregating → Degraded
        Committing → Degraded
        Degraded → Degraded
        Recovering → Degraded
        Degraded → Recovering
        Recovering → Ready
        Initializing → Failed
        Ready → Failed
        Computing → Failed
        Aggregating → Failed
        Committing → Failed
        Degraded → Failed
        Recovering → Failed
    """,
    "Worker": """
        Initialized → Joined coordinator_connected
        Joined → Ready partition_loaded
        Ready → Computing work_assigned
        Computing → Aggregating local_computation_done
        Aggregating → Committing barrier_released
        Committing → Joined commit_finalized
        Joined → Suspect failure_detected
        Ready → Suspect failure_detected
        Computing → Suspect failure_detected
        Aggregating → Suspect failure_detected
        Committing → Suspect failure_detected
        Suspect → Failed confirm_failure
        Suspect → Joined liveness_proven
    """,
    "Partition": """
        Unloaded → Downloading download_initiated
        Evicted → Downloading download_initiated
        Downloading → Validating download_complete
        Downloading → Unloaded download_failed
        Validating → Loaded validation_passed
        Validating → Unloaded validation_failed
        Loaded → Warming warmup_initiated
        Warming → Ready warmup_complete
        Ready → InUse assigned
        InUse → Ready released
        Ready → Evicted evict
    """,
    "Connection": """
        Connecting → Established handshake_complete
        Established → Active data_flowing
        Active → Established keepalive_ok
        Active → Idle no_activity_timeout
        Idle → Active activity_resumed
        Active → Suspected keepalive_failed
        Idle → Suspected keepalive_failed
        Established → Suspected keepalive_failed
        Suspected → Established reconnect
        Suspected → Terminated timeout
        Connecting → Terminated closed
        Established → Terminated closed
        Active → Terminated closed
        Idle → Terminated closed
        Suspected → Terminated closed
    """,
    "InferenceRequest": """
        Queued → Scheduled
        Scheduled → Dispatched
        Dispatched → Executing
        Executing → Validating
        Validating → Completed
        Queued → Failed
        Scheduled → Failed
        Dispatched → Failed
        Executing → Failed
        Validating → Failed
        Queued → Cancelled
        Scheduled → Cancelled
        Dispatched → Cancelled
        Executing → Cancelled
        Validating → Cancelled
        Queued → Failed after 30000
        Scheduled → Failed after 5000
        Dispatched → Failed after 5000
        Validating → Failed after 10000
    """,
}

FORBIDDEN = {
    "System": {
        ("Uninitialized", "Ready"): "it would skip forming the cluster",
        ("Computing", "Ready"): "it would skip commitment and lose the results",
        ("Degraded", "Computing"): "no new work begins during recovery",
        ("Committing", "Degraded"): "an agreement must finish atomically",
        **{("Terminated", state.name): "a terminated system is final" for state in SYSTEM.states},
        **{
            (state.name, "Bootstrapping"): "a running system is not bootstrapped again"
            for state in SYSTEM.states
            if state.name not in ("Uninitialized", "Terminated")
        },
    },
    "Partition": {("InUse", "Evicted"): "a partition in use is released before it is evicted"},
}

EPOCHS = {"System": ("Committing", "Ready"), "Coordinator": ("Committing", "Ready")}
"""The one step that begins an epoch."""

NEEDS_PAYLOAD = {"quorum_established", "begin_inference", "result_committed", "confirm_failure"}
"""The events that have a condition; their steps cannot be asked for without one."""

GO = Command("test")
KINDS = pytest.mark.parametrize("kind", MACHINES)


def edges_of(definition: Definition[Any, None]) -> set[str]:
    """The edges of a definition as lines, by its rules."""
    lines: set[str] = set()
    for rule in definition.rules:
        if not rule.is_forbidding:
            how = "" if rule.event is None else f" {rule.event.name}"
            how += "" if rule.timeout_ms is None else f" after {rule.timeout_ms}"
            for source, target in product(definition.states, definition.states):
                if rule.covers(source, target):
                    lines.add(f"{source} → {target}{how}")
    return lines


def lines_of(table: str) -> list[str]:
    """The lines of a table."""
    return [line.strip() for line in table.strip().splitlines()]


def forced(definition: Definition[Any, None], state: Any) -> StateMachine[Any, None]:
    """A machine that was put into a state."""
    machine = StateMachine(definition)
    machine.force_state(state, "the test begins here")
    return machine


@KINDS
def test_states_have_names_flags_and_descriptions(kind: str) -> None:
    """Each state has the flags of the table, its description where Butterfly has one, and one of its own elsewhere."""
    rows = [[cell.strip() for cell in line.split("|")] for line in lines_of(STATES[kind])]
    assert [state.name for state in MACHINES[kind].states] == [name for name, *_ in rows]
    for state, (_, flags, description) in zip(MACHINES[kind].states, rows, strict=True):
        found = "F" if state.is_failure_state else "-"
        found += "O" if state.is_operational else "o"
        found += "T" if state.is_terminal else "-"
        found += "W" if state.accepts_new_work else "-"
        assert (state.name, found) == (state.name, flags)
        assert state.description == (description or state.description)
        assert state.description
        assert state.component_type == kind


@KINDS
def test_the_edges_are_those_of_the_table(kind: str) -> None:
    """Every edge of the table is a rule's, with its event or time, and there is no other."""
    lines = lines_of(EDGES[kind])
    assert len(lines) == len(set(lines))
    assert edges_of(MACHINES[kind]) == set(lines)


@KINDS
def test_every_pair_of_states_is_judged_as_the_table_says(kind: str) -> None:
    """A step without a condition is taken, and each other one refused with a reason and the states that are allowed."""
    definition = MACHINES[kind]
    table = [line.split() for line in lines_of(EDGES[kind])]
    for source, target in product(definition.states, definition.states):
        how = [rest for before, _, after, *rest in table if (before, after) == (source.name, target.name)]
        machine = forced(definition, source)
        if any(rest == [] or (len(rest) == 1 and rest[0] not in NEEDS_PAYLOAD) for rest in how):
            record = machine.transition_to(target, GO)
            assert (record.from_state, record.to_state) == (source, target)
            assert (machine.epoch == 1) is ((source.name, target.name) == EPOCHS.get(kind))
        else:
            with pytest.raises(InvalidTransition) as refused:
                machine.transition_to(target, GO)
            assert machine.current_state is source
            assert refused.value.reason
            assert set(refused.value.allowed) == {after for before, _, after, *_ in table if before == source.name}


@KINDS
def test_forbidden_steps_say_why(kind: str) -> None:
    """The forbidden steps are those of the table, and each is refused with its reason."""
    definition = MACHINES[kind]
    found = {(str(source), str(target)): rule.refusal for (source, target), rule in definition.tables.forbidden.items()}
    assert found == FORBIDDEN.get(kind, {})
    for source, target in definition.tables.forbidden:
        verdict = forced(definition, source).can_transition_to(target)
        assert not verdict
        assert verdict.reason == found[str(source), str(target)]


@KINDS
def test_terminal_states_have_no_exit(kind: str) -> None:
    """No rule leaves a terminal state, and no other state is a trap."""
    for state in MACHINES[kind].states:
        assert bool(MACHINES[kind].allowed(state)) is not state.is_terminal


@KINDS
def test_every_state_is_reached_from_the_initial_one(kind: str) -> None:
    """Each state, Failed too, is reached from the state in which machines begin."""
    definition = MACHINES[kind]
    check_reach(definition.name, definition.tables, [definition.initial], (), ())


@KINDS
def test_an_event_is_taken_where_the_table_says(kind: str) -> None:
    """An event without a condition takes its step in the states of the table, and is refused in every other one."""
    definition = MACHINES[kind]
    table = [line.split() for line in lines_of(EDGES[kind])]
    events = {rule.event.name: rule.event for rule in definition.rules if rule.event is not None}
    for source, event in product(definition.states, events.values()):
        if event.name in NEEDS_PAYLOAD:
            continue
        targets = [after for before, _, after, *rest in table if before == source.name and rest == [event.name]]
        machine = forced(definition, source)
        if targets:
            assert [machine.fire(event, None).to_state.name] == targets
        else:
            with pytest.raises(InvalidTransition, match=f"no rule takes the event '{event.name}' in this state"):
                machine.fire(event, None)
