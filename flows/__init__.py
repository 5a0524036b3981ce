"""Orchestration only: which stage runs on what, under Prefect. No module here imports torch, directly or indirectly.

- `config`: the settings of a whole regeneration; `presets`: named ones
- `preflight`: what is checked before any work; `commands`, `tether`: guarded child processes
- `stages`: skip what is complete, make the rest; `pipeline`: the stages in order, free of Prefect
- `server`: Prefect's temporary server; `output`: a command's lines in the run's log
- `regenerate`: the parent flow; `single_stages`: a flow for each heavy stage
"""
