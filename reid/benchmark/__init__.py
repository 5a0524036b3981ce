"""The table of finished runs and its statistics. No torch, no pictures."""
