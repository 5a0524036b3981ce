"""Images for re-ID: read, augmented, sampled, joined with synthetic ones."""
