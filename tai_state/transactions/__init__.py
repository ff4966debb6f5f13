"""Optimistic transactions over states."""
