"""Plain NumPy that several packages need: intervals over clusters, arrays in published files. No torch, no data set."""
