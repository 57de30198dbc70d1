"""All operations: those of this package, and those that other packages add by an entry point."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from featup_kernels.adaptive_conv import OPERATION as ADAPTIVE_CONV
from featup_kernels.neighbor_mix import OPERATION as NEIGHBOR_MIX
from featup_kernels.operation import Operation
from featup_kernels.range_taps import OPERATION as RANGE_TAPS
from featup_kernels.resampled_conv import OPERATION as RESAMPLED_CONV

GROUP = "featup.operations"


def _collect(*own: Operation) -> dict[str, Operation]:
    """Operations by name. One that can't be loaded or has a taken name is skipped with a warning on stderr."""
    operations = {operation.name: operation for operation in own}
    for point in entry_points(group=GROUP):
        try:
            found = point.load()
            problem = "" if isinstance(found, Operation) else "is not an Operation"
        except Exception as error:  # anybody's code may raise anything
            problem = f"can't be loaded ({type(error).__name__}: {error})"
        if not problem and found.name in operations:
            problem = f"has the name {found.name}, which is taken"
        if problem:
            print(f"warning: {GROUP} {point.value} {problem}; skipped", file=sys.stderr)
        else:
            operations[found.name] = found
    return operations


OPERATIONS = _collect(ADAPTIVE_CONV, NEIGHBOR_MIX, RANGE_TAPS, RESAMPLED_CONV)
"""By name. Another package adds one without a change here:

    [project.entry-points."featup.operations"]
    mine = "my_package:OPERATION"
"""
