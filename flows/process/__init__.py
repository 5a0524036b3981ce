"""Guarded child processes: started, read along, stopped, locked, spread over a cluster. No Prefect."""
