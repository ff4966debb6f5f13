"""The history of machines: replay, recovery, validation, cleanup, export and import."""
