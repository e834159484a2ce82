"""A model of ours, with or without neighbours, for the lm-evaluation-harness."""
