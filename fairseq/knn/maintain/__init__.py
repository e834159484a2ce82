"""Changing a datastore: adopting one, forgetting rows, compacting."""
