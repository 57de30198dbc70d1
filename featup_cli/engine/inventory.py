"""What there is: backbones, methods, devices and kernels here."""

from __future__ import annotations

from typing import Any

import torch
from featup_kernels import backends

from featup_cli.backbones.registry import ALIASES
from featup_cli.core.describe import describe_device
from featup_cli.core.versions import versions
from featup_cli.upsamplers.registry import METHODS
from featup_cli.upsamplers.weights.find import describe_shipped


def describe_environment() -> dict[str, Any]:
    """Aliases, methods, upsamplers, devices, kernels and versions, as lists of rows."""
    devices = [torch.device("cpu")] + [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    return {
        "backbones": [{"alias": name, "model": a.reference, "about": a.description} for name, a in ALIASES.items()],
        "methods": [{"method": m.name, "about": m.about} for m in METHODS.values()],
        "upsamplers": describe_shipped(),
        "devices": [{"device": str(d), "about": describe_device(d)} for d in devices],
        "kernels": [{"backend": s.backend, "device": s.device, "status": s.why_not or "would run"} for s in backends()],
        "versions": [{"package": name, "version": number} for name, number in versions().items()],
    }
