"""Signals, log and progress, memory, devices and processes: the machine beneath."""
