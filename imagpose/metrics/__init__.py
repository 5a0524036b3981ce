"""Picture metrics, and the published networks behind them. Nothing here knows of generators or data sets."""
