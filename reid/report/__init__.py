"""The self-contained report about finished artifacts: words, charts, tables. No torch; nothing is estimated here."""
