"""Training feed-forward upsamplers."""
