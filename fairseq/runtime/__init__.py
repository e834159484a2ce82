"""The machine beneath: files, signals, log and progress, memory, devices and processes."""
