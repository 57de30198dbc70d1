"""The backbone itself with a smaller stride of its patches."""
