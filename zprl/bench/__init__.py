"""Comparisons of methods on the same frozen policies: suites, results and their page."""
