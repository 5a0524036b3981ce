"""WebDataset tars: written, taken over, encoded once, read in training order."""
