"""Text as token ids: dictionary, binarised files, blocks, context windows and batches. NumPy only."""
