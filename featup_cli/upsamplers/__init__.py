"""Methods: one folder each, listed in `registry`."""
