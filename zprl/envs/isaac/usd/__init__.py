"""What the assets are made of: one module per thing, each with its numbers and how it is written as USD."""
