"""One search over many shards, in this process or on many machines: exact, and few bytes."""
