"""The per-pixel filter on a source that is resampled while it is read."""

from featup_kernels.operation import Operation

OPERATION = Operation(
    "resampled_conv",
    "filters every pixel with weights of its own on a source that is resized while it is read",
    "FeatUp, section 3.2",
    package="featup_kernels.resampled_conv",
    kernels=("triton", "cpu"),
    gradients=("reference",),
    scaled=True,
)
