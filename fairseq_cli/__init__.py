"""The console commands: each parses its flags, builds the pieces, joins them and reports."""
