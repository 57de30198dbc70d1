"""Finding the same point or region in another picture."""
