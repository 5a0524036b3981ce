"""The report page: its data, words, tables, charts and pictures."""
