"""The store: the one write path, reading, kept snapshots, typed handles."""
