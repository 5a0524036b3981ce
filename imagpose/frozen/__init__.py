"""Training of the models that stay frozen afterwards, VAE and image encoder; the denoiser's is in `training`."""
