"""ReSFU's fine-grained neighbour step."""

from featup_kernels.operation import Operation

OPERATION = Operation(
    "neighbor_mix",
    "mixes neighbours of a low-resolution map at any output size",
    "ReSFU, section 4.3",
    package="featup_kernels.neighbor_mix",
    kernels=("triton", "cpu"),
    scaled=True,
)
