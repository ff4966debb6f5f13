"""Engines: the four verbs of the waist in memory, on SQLite and on Firestore."""
