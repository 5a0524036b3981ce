"""Prefect's side: its temporary server, a site's variables, artifacts, the watch over a run. No stage is made here."""
