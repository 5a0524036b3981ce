"""The 2x2 canvas: where views lie, who is visible in training, what sampling generates. No network, no file."""
