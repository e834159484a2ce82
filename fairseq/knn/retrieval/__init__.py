"""A saved retrieval: what the model and its neighbours said of every token of a split."""
