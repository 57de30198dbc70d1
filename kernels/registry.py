"""All operations: those of this package, and those that other packages add by an entry point."""

from __future__ import annotations

from featup_kernels.adaptive_conv import OPERATION as ADAPTIVE_CONV
from featup_kernels.neighbor_mix import OPERATION as NEIGHBOR_MIX
from featup_kernels.operation import Operation
from featup_kernels.plugins import collect
from featup_kernels.range_taps import OPERATION as RANGE_TAPS
from featup_kernels.resampled_conv import OPERATION as RESAMPLED_CONV

OPERATIONS: dict[str, Operation] = collect(
    (ADAPTIVE_CONV, NEIGHBOR_MIX, RANGE_TAPS, RESAMPLED_CONV), "featup.operations", Operation
)
"""By name. Another package adds one without a change here:

    [project.entry-points."featup.operations"]
    mine = "my_package:OPERATION"
"""
