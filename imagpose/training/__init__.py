"""Training of the denoiser: inputs, loss, loop, generators on disk. The frozen models' is in `frozen`."""
