"""The 2x2 canvas: where views lie, who is visible in training, who is asked in sampling. No network, no file."""
