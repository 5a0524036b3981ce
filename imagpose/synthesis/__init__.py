"""Synthetic sets: who in which pose, the shards, the showcase."""
