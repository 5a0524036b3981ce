"""Person re-identification: a strong baseline (BoT), an exact evaluator, and the benchmark that compares arms."""
