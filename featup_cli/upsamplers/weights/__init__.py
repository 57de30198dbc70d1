"""Weights of feed-forward upsamplers: files, hub, the authors' own."""
