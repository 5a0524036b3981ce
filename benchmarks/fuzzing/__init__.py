"""Hostile files for the readers of artifacts: no escape, no hang, no exception but the documented ones."""
