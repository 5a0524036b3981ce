"""The history of a preset's regenerations: what is remembered of each, how two differ, the trend."""
