"""Testing a network: features, ranking, re-ranking, the identity check. Nothing is trained here."""
