"""Zero-shot super-resolution: a small network trained on the low-resolution features of one picture and no others."""
