"""What a file is, from its header alone. Free of torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from featup_cli.io.header import COLOUR_BASIS, COUNTS, FITTED_MODEL, KINDS, UPSAMPLER, described, stored_parts
from featup_cli.io.safetensors import Stored

OTHERS = {FITTED_MODEL: "fitted model", UPSAMPLER: "upsampler weights", COLOUR_BASIS: "colour basis"}  # than features


def describe_file(path: Path | str) -> dict[str, Any]:
    """What a file holds and how it was made; no tensor is read.

    Returns:
        JSON values: `file`, `kind` (`features`, `fitted model`, `upsampler weights` or `colour basis`), `bytes`, and
        `tensors`: shape and dtype of each by name. Features have `shape` [C, H, W], `dtype`, `layout`, `storage` and
        `provenance`; the others whatever their metadata say.
    Raises:
        InputError: the file is missing, damaged, or none of these.
    """
    path = Path(path)
    header, metadata = described(path)
    formats = header.metadata.get("format"), metadata.get("format")
    tensors = {name: _describe_tensor(stored) for name, stored in header.tensors.items()}
    facts: dict[str, Any] = {"file": str(path), "kind": "features", "bytes": path.stat().st_size}
    if kind := next((kind for name, kind in OTHERS.items() if name in formats), None):
        facts |= {
            "kind": kind,
            "parameters": sum(math.prod(tensor["shape"]) for tensor in tensors.values()),
        }
        return {**facts, **metadata, **facts, "tensors": tensors}  # the file can't overrule what it is
    parts = {part: stored for part, (_, stored) in stored_parts(path, header.tensors).items()}
    main, channels = ("features", "features") if "features" in parts else ("coefficients", "mean")
    return facts | {
        "shape": [parts[channels].shape[0], *parts[main].shape[1:]], "dtype": KINDS[parts[main].dtype],
        "layout": "C H W", "storage": "full" if main == "features" else "factored", "tensors": tensors,
        "provenance": metadata,
    }  # fmt: skip


def _describe_tensor(stored: Stored) -> dict[str, Any]:
    return {"shape": list(stored.shape), "dtype": (KINDS | COUNTS).get(stored.dtype, stored.dtype)}
