"""Class activation maps, and how much of a class they explain."""
