"""Leases on resources: fencing, renewal, the queue of waiters, and deadlock detection."""
