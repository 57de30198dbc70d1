"""Pictures in and out, and pictures of features."""
