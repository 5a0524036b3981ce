"""What stays of each run: its report, its row in the history, its record in the store."""
