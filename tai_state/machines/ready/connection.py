"""A connection between two nodes.

Corrections of Butterfly, whose design document has the states and edges:

- A connection can be closed in every state. There only a suspected one ends.
- Terminated is final, and a new connection begins at Connecting. There that is left open.
"""

from __future__ import annotations

from typing import Final

from tai_state.machines.defining import define
from tai_state.machines.events import MachineEvent
from tai_state.machines.rules import ANY_STATE, allow
from tai_state.machines.states import ComponentState, described


class ConnectionState(ComponentState, component_type="Connection"):
    """The state of a connection."""

    Connecting = described("Being established", operational=False)
    Established = described("Can carry data, and carries none yet", accepts_new_work=True)
    Active = described("Carries data", accepts_new_work=True)
    Idle = described("Has carried no data for some time", accepts_new_work=True)
    Suspected = described("Does not answer, and may be broken", operational=False)
    Terminated = described("Closed", operational=False, terminal=True)


class ConnectionEvents:
    """The events that move a connection."""

    handshake_complete: Final = MachineEvent("handshake_complete")
    data_flowing: Final = MachineEvent("data_flowing")
    keepalive_ok: Final = MachineEvent("keepalive_ok")
    no_activity_timeout: Final = MachineEvent("no_activity_timeout")
    activity_resumed: Final = MachineEvent("activity_resumed")
    keepalive_failed: Final = MachineEvent("keepalive_failed")
    reconnect: Final = MachineEvent("reconnect")
    timeout: Final = MachineEvent("timeout")
    closed: Final = MachineEvent("closed")


CONNECTION: Final = define(
    "connection",
    ConnectionState,
    initial=ConnectionState.Connecting,
    rules=[
        allow(ConnectionState.Connecting, ConnectionState.Established, on=ConnectionEvents.handshake_complete),
        allow(ConnectionState.Established, ConnectionState.Active, on=ConnectionEvents.data_flowing),
        allow(ConnectionState.Active, ConnectionState.Established, on=ConnectionEvents.keepalive_ok),
        allow(ConnectionState.Active, ConnectionState.Idle, on=ConnectionEvents.no_activity_timeout),
        allow(ConnectionState.Idle, ConnectionState.Active, on=ConnectionEvents.activity_resumed),
        allow(
            [ConnectionState.Active, ConnectionState.Idle, ConnectionState.Established],
            ConnectionState.Suspected,
            on=ConnectionEvents.keepalive_failed,
        ),
        allow(ConnectionState.Suspected, ConnectionState.Established, on=ConnectionEvents.reconnect),
        allow(ConnectionState.Suspected, ConnectionState.Terminated, on=ConnectionEvents.timeout),
        allow(ANY_STATE, ConnectionState.Terminated, on=ConnectionEvents.closed),
    ],
)
"""How a connection is established, used, suspected and closed."""
