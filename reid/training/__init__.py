"""One re-ID run: network, losses, learning rate, loop."""
