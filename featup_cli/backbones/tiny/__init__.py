"""The backbone that comes with the package: no download."""
