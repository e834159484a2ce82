"""Sweeps: every setting of a saved retrieval in one pass, and a report of the best."""
