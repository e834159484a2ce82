"""The datastore: its files, how they are written, and where each row comes from."""
