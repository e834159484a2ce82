"""Training: one update, the loop over updates, the files that it leaves."""
