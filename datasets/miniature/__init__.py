"""The renderer: a small data set of walking people in a real one's layout. Knows the ground floor only."""
