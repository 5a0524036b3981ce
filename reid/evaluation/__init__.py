"""Features, ranking, re-ranking, and the identity check of synthetic images."""
