"""Streams of events and the states that they lead to: the opened core, the one write path, and reading."""
