"""Engines: the four verbs of the waist, on memory and on SQLite."""
