"""The FAISS index of a datastore: choosing, training, building and extending it."""
