"""Search: the nearest rows of queries, by the index, list by list, or exactly."""
