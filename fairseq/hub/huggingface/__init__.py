"""Hugging Face models loaded from Python, and neighbours for text that transformers itself generates."""
