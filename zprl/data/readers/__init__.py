"""Readers of demonstration files, registered by entry point ``zprl.readers``."""
