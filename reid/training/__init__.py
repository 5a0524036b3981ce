"""Network, losses, schedule, training loop. Testing belongs to `evaluation`, comparing to `benchmark`."""
