"""Whether memory stays flat: 1,000 pictures in one process. `python benchmarks/soak.py`, a few minutes."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from common import SIDE, make_pictures, write_record

from featup_cli import Upsampling, upsample_many
from featup_cli.core.memory import held_bytes

WARM_UP = 50  # pictures after which everything is loaded and every buffer has its size
EVERY = 50


def main() -> None:
    """Run and write soak_cpu.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="pictures")
    parser.add_argument("--method", default="bilinear")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "soak_cpu.json")
    given = parser.parse_args()
    settings = Upsampling(method=given.method, device="cpu")
    statuses: Counter[str] = Counter()
    resident = {}  # MB by number of pictures
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        pictures = make_pictures(Path(folder, "in"), given.count)
        for record in upsample_many([pictures], Path(folder, "out"), settings=settings):
            statuses[record.status] += 1
            for path in record.files.values():  # 10 MB a picture: they need not all be on the disk at once
                Path(path).unlink()
            if statuses.total() % EVERY == 0:
                resident[statuses.total()] = round(held_bytes(torch.device("cpu")) / 1e6, 1)
    first, last = resident[WARM_UP], resident[max(resident)]
    write_record(
        given.output, "soak",
        {
            "method": given.method, "backbone": "tiny", "side": SIDE, "pictures": dict(statuses),
            "seconds": round(time.perf_counter() - start, 1), "resident_mb": resident,
            "start_mb": first, "end_mb": last, "growth_mb": round(last - first, 1),
            "largest_mb": max(resident.values()),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
