"""Pictures per second: a loop over single runs, folders with 1 and 2 workers, and the backbone alone.

`python benchmarks/throughput.py` on an otherwise idle machine, a few minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import SIDE, make_pictures, write_record

from featup_cli.engine.pipeline import Pipeline
from featup_cli.engine.settings import Upsampling

START = [sys.executable, "-m", "featup_cli", "upsample"]
ROUNDS = 3  # the best one counts, as other work on the machine can only slow a run down


def loop(pictures: list[Path], out: Path, options: list[str]) -> dict[str, float]:
    """A process for each picture."""
    start = time.perf_counter()
    for picture in pictures:
        subprocess.run([*START, str(picture), "-o", str(out), "--quiet", *options], check=True)
    return _rate(len(pictures), time.perf_counter() - start)


def folder(pictures: Path, count: int, out: Path, options: list[str]) -> dict[str, float]:
    """One command; `running`: from the first picture done to the last, without what loading takes."""
    moments = []
    start = time.perf_counter()
    command = [*START, str(pictures), "-o", str(out), "--json", "--overwrite", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            assert '"done"' in line, line
            moments.append(time.perf_counter())
    assert process.returncode == 0
    assert len(moments) == count
    whole = _rate(count, time.perf_counter() - start)
    return whole | {"running_per_second": _rate(count - 1, moments[-1] - moments[0])["per_second"]}


def bare_backbone(pictures: list[Path], method: str) -> dict[str, float]:
    """The network alone on pictures that are decoded already, two at once as in a run."""
    pipeline = Pipeline(Upsampling(method=method, device="cpu"))
    decoded = [pipeline.read(path) for path in pictures]
    plan = pipeline.plan(decoded[0])
    pipeline.extract(decoded[:2], plan)
    start = time.perf_counter()
    for i in range(0, len(decoded), 2):
        pipeline.extract(decoded[i : i + 2], plan)
    return _rate(len(decoded), time.perf_counter() - start)


def _rate(count: int, seconds: float) -> dict[str, float]:
    return {"pictures": count, "seconds": round(seconds, 3), "per_second": round(count / seconds, 3)}


def main() -> None:
    """Run and write throughput_cpu.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--single", type=int, default=12, help="pictures of the loop over single runs")
    parser.add_argument("--count", type=int, default=100, help="pictures of a folder")
    parser.add_argument("--method", default="bilinear")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "throughput_cpu.json")
    given = parser.parse_args()
    options = ["--method", given.method, "--device", "cpu"]
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        pictures, out = make_pictures(Path(temporary, "in"), given.count), Path(temporary, "out")
        paths = sorted(pictures.iterdir())

        def best(name: str, rounds: list[dict[str, float]]) -> None:
            rows[name] = max(rounds, key=lambda each: each["per_second"])

        best("loop over single runs", [loop(paths[: given.single], out, options)])
        best("folder, 1 worker", [folder(pictures, given.count, out, options) for _ in range(ROUNDS)])
        two = [*options, "--devices", "cpu:2"]
        best("folder, 2 workers", [folder(pictures, given.count, out, two) for _ in range(ROUNDS)])
        best("backbone alone", [bare_backbone(paths, given.method) for _ in range(ROUNDS)])
    single, bare = (rows[name]["per_second"] for name in ("loop over single runs", "backbone alone"))
    for row in rows.values():
        row["times_the_loop"] = round(row["per_second"] / single, 2)
        row["of_the_backbone"] = round(row.get("running_per_second", row["per_second"]) / bare, 3)
    write_record(given.output, "throughput", {"method": given.method, "backbone": "tiny", "side": SIDE, "rows": rows})


if __name__ == "__main__":
    main()
