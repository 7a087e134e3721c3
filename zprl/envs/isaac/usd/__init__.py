"""The assets: one module per thing, with its numbers and how it is written as USD."""
