"""Validation: the loss of a model on whole splits, by its criterion."""
