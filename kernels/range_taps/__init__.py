"""JBU's weights: a softmax of similarities within a window, times a spatial Gaussian."""

from featup_kernels.range_taps.op import range_taps

__all__ = ["range_taps"]
