"""Writing a datastore: the rows of a text, in one process or in ranges that several write, and joined again."""
