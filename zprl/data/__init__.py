"""Demonstrations: readers, checks, the episode store, the normaliser and training windows."""
