"""Few-step students of generators. The loop and its checkpoints are those of `training`."""
