"""Conflicts: rival versions of a state, how they are resolved, and what is kept of those that gave way."""
