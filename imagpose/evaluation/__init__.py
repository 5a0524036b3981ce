"""What a generator is worth on the published test pairs, and ablations. The metrics themselves are in `metrics`."""
