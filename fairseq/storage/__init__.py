"""Files on the disk: whole or not there, whose they are, what kind they are, and JSON records in them."""
