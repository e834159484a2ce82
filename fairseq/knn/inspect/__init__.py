"""Looking at files without changing them: check, info, rows, recall."""
