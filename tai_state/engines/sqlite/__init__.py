"""The SQLite engine: one file, several processes, full durability."""
