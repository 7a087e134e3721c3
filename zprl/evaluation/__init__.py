"""Judging policies: the same start states and the same noise for every policy."""
