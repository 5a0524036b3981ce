"""Training of the denoiser: inputs, loss, loop, checkpoints, validation, ablations."""
