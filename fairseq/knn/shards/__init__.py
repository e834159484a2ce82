"""An index in several files, each of some of the rows: how rows are dealt, and how shards are built and merged."""
