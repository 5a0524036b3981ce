"""Re-ID: ranking, re-ranking, training and intervals, against public implementations."""
