"""Offline training of the base policy and its bottleneck from demonstrations."""
