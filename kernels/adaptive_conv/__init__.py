"""FeatUp's per-pixel filter."""

from featup_kernels.operation import Operation

OPERATION = Operation(
    "adaptive_conv",
    "filters every pixel with weights of its own, which the channels share",
    "FeatUp, equation 4 and table 6",
    package="featup_kernels.adaptive_conv",
    kernels=("triton", "cpu"),
)
