"""Neighbours: from queries to the next-token probabilities that the nearest rows vote for."""
