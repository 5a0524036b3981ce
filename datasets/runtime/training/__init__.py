"""What every training shares: states on disk, learning rates, the run of a small training. No model, no loss."""
