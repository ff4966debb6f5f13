"""The store: opening one, its methods, and typed handles: composed of the rooms below."""
