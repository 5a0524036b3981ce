"""The table of finished runs: gains, how sure they are, plans for the next runs. No network, no pictures, no torch."""
