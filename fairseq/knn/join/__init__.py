"""What the jobs of an array have written, put together: results, retrievals, datastores."""
