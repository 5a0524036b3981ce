"""Guarded child processes, locks and clusters: how commands run. Nothing here knows Prefect or a stage's settings."""
