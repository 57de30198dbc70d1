"""Nearest, bilinear, bicubic."""
