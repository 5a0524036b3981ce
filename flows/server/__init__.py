"""Prefect's side: the temporary server, variables, artifacts, whether a run is still wanted."""
