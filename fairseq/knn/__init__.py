"""The nearest-neighbour part: datastore, index, search and distribution, one idea a file."""

import logging

# FAISS reports, at INFO, each instruction set that it tries to load; that is no news to anyone who evaluates a model.
logging.getLogger("faiss").setLevel(logging.WARNING)
