"""Leases on resources: fenced, renewed, waited for in line, and searched for deadlocks."""
