"""Feature files in the formats that other programs read."""
