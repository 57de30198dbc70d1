"""Which evaluation tasks there are, and which methods are compared."""

from __future__ import annotations

from featup_kernels.plugins import collect

from featup_cli.evaluation.boundary.task import TASK as BOUNDARY
from featup_cli.evaluation.cam.task import TASK as CAM
from featup_cli.evaluation.consistency.task import TASK as CONSISTENCY
from featup_cli.evaluation.probe.task import DEPTH, SEGMENTATION
from featup_cli.evaluation.retrieval.task import TASK as RETRIEVAL
from featup_cli.evaluation.task import Task
from featup_cli.upsamplers.implicit.method import METHOD as IMPLICIT
from featup_cli.upsamplers.interpolation.method import BILINEAR
from featup_cli.upsamplers.jbu.method import JBU
from featup_cli.upsamplers.resfu.method import METHOD as RESFU

TASKS: dict[str, Task] = collect((SEGMENTATION, DEPTH, CONSISTENCY, BOUNDARY, CAM, RETRIEVAL), "featup.tasks", Task)
"""By name: our own, then those of other packages (entry points `featup.tasks`)."""
BASELINE = BILINEAR.name
"""The method to which tables show the differences of others."""
OVER_BASELINE = f"over_{BASELINE}"
"""Key of such a difference in a run."""
COMPARED = ",".join(method.name for method in (BILINEAR, JBU, RESFU, IMPLICIT))
"""What `compare` shows unless told otherwise."""
