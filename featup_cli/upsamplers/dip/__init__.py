"""Deep image prior: a convolutional network fitted to the low-resolution features of one picture and nothing else."""
