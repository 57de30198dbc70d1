"""What the measurements of whole runs share: pictures to work on, and facts about the machine."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from featup_cli.core.describe import describe_device
from featup_cli.core.versions import versions

SIDE = 224


def make_pictures(folder: Path, count: int) -> Path:
    """Different smooth JPEGs of 224 px, as photographs are rather than noise."""
    folder.mkdir(parents=True)
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 256, (14, 14, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(folder / f"{i:05}.jpg", quality=92)
    return folder


def write_record(path: Path, benchmark: str, results: dict[str, Any]) -> None:
    """Write results beside what they were measured on, and print them."""
    cpu = torch.device("cpu")
    record = {
        "benchmark": benchmark, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": describe_device(cpu), "threads": torch.get_num_threads(), "versions": versions(), **results,
    }  # fmt: skip
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(results, indent=1))
