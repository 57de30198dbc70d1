"""How alike a picture's features are after it moved."""
