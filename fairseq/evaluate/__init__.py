"""Evaluation: from batches to log-probabilities, mixed with other memories, to perplexity."""
