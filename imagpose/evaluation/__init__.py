"""A generator on the published test pairs: metrics, their networks' weights, tables."""
