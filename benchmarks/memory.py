"""Peak memory of whole `featup upsample` processes beside their budget. `python benchmarks/memory.py`, hours for all.

Results are kept in memory_cpu.json by case, so that cases can be measured one by one: `--only 4096x4096x384:jbu`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import write_record
from PIL import Image

from featup_cli.core.units import parse_bytes

SAMPLE = Path(__file__).parent.parent / "samples" / "rocket.jpg"
METHODS = ("bilinear", "guided", "jbu", "resfu", "implicit")
BACKBONES = {96: ["tiny"], 384: ["vit_small_patch16_224", "--random-weights"]}
SIZES = ("224x224x384", "1024x1024x384", "2048x2048x384", "4096x4096x384", "6000x4000x96")
BUDGET = "2GB"


def main() -> None:
    """Measure the cases and write memory_cpu.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="cases, as HEIGHTxWIDTHxCHANNELS or HEIGHTxWIDTHxCHANNELS:METHOD")
    parser.add_argument("--set", nargs="*", default=[], help="settings of implicit")
    parser.add_argument("--scratch", type=Path, help="folder for results of up to 13 GB, which are deleted")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "memory_cpu.json")
    given = parser.parse_args()
    for size in SIZES:
        for method in METHODS:
            if given.only and not {size, f"{size}:{method}"} & set(given.only):
                continue
            # Read and written for each case, so that several can't lose what others measured.
            result = measure(size, method, given.set, given.scratch)
            cases = json.loads(given.output.read_text())["cases"] if given.output.exists() else {}
            write_record(given.output, "memory", {"cases": cases | {f"{size}:{method}": result}})


def measure(size: str, method: str, settings: list[str], scratch: Path | None) -> dict[str, Any]:
    """One process: the picture has the size of the output."""
    height, width, channels = map(int, size.split("x"))
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        picture = Path(folder, "picture.jpg")
        Image.open(SAMPLE).convert("RGB").resize((width, height)).save(picture, quality=90)
        command = [
            sys.executable, "-m", "featup_cli", "upsample", str(picture), "-o", folder, "--method", method,
            "--backbone", *BACKBONES[channels], "--output-size", f"{height}x{width}", "--memory", BUDGET,
            "--device", "cpu", "--quiet",
        ]  # fmt: skip
        if method == "implicit":
            command += [part for setting in settings for part in ("--set", setting)]
        start = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{size} {method}: exit status {process.returncode}")
        seconds = time.perf_counter() - start
        written = Path(folder, "picture.safetensors").stat().st_size
    return {
        "budget_mb": round(parse_bytes(BUDGET) / 1e6), "peak_mb": round(usage.ru_maxrss * 1024 / 1e6),
        "seconds": round(seconds, 1), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "file_mb": round(written / 1e6), "settings": settings if method == "implicit" else [],
    }  # fmt: skip


if __name__ == "__main__":
    main()
