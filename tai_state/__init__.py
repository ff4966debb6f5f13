"""State machines whose state survives: event-sourced, versioned, atomic."""

from tai_state.store.opening import open_store as open_store
