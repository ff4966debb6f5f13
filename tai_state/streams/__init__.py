"""Streams of events, and the states built from them: the opened core, the one write path, and reading."""
