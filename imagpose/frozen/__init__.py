"""Training of what stays frozen afterwards: the small VAE and the small image encoder."""
