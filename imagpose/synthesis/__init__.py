"""Synthetic sets: the plan, the shards with their provenance, the showcase. How one canvas is sampled: `sampling`."""
