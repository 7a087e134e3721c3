"""The way from a candidate policy to the registry's champion: gate, card, publication."""
