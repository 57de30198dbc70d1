"""How well edges of features agree with those of the picture's segments."""
