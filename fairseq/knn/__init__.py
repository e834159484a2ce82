"""The nearest-neighbour part: datastore, index, search and distribution, one idea a file."""
