"""A fairseq for language models. Importing it imports neither torch nor faiss."""

__version__ = "0.1.0"
