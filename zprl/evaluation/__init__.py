"""Judging policies: one episode per start state, the same start states and noise for every policy."""
