"""Conflicts: rival versions of a state, how they are resolved, and the record of what was discarded."""
