"""How alike pictures are: metrics, and the published networks behind them. Knows nothing of generators."""
