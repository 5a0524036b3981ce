"""Orchestration: which stage runs on what, under Prefect. No model code; no module here imports torch.

- `settings`, `presets`, `config`: what a regeneration does, named values for it, what overrides them
- `preflight`: what is checked before any work
- `pipeline`: the stages in order; `reid_arms`: the re-ID runs; `warm_start`: which generator a training continues from
- `stages`: skips what is complete and makes the rest by commands in `process/`
- `test_time/`: what trained networks are tested with besides
- `runs/`: where reports stay, what is remembered of each, what a run tells its store of itself
- `regenerate`, `single_stages`, `maintenance`: the flows, with `server/`; only these know Prefect
"""
