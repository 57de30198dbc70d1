"""JBU's weights: a softmax of similarities within a window, times a spatial Gaussian."""

from featup_kernels.operation import Operation

OPERATION = Operation(
    "range_taps",
    "makes weights of the similarity of keys",
    "FeatUp, equations 4 to 6",
    package="featup_kernels.range_taps",
    kernels=("triton", "cpu"),
)
