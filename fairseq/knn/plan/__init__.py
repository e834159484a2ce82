"""What a datastore of so many tokens will take: disk, memory, time and machines, by stage."""
