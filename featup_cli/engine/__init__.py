"""One picture: read, extract, upsample, write."""
