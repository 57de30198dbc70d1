"""Turn what `on_gpu.sh` left into the committed JSON and the tables of docs/benchmarks.md.

`python -m benchmarks.read_gpu OUT [OUT...]`. Of several runs the last one of each step counts. Prints which goals are
met. A dry run is printed and never written.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.gpu.goals import all_goals
from benchmarks.gpu.results import read_all
from benchmarks.gpu.tables import report

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- gpu: written by benchmarks/read_gpu.py -->\n", "<!-- /gpu -->"


def replace_section(text: str, section: str) -> str:
    """The document with what lies between the marks replaced.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks {BEGIN.strip()} or {END}")
    return before + begin + section + end + after


def main() -> None:
    """Read OUT, write, and print the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="+", help="folders that on_gpu.sh wrote, the newest last")
    parser.add_argument("--json", type=Path, help="(default: benchmarks/gpu_DEVICE.json)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "benchmarks.md")
    given = parser.parse_args()
    for out in given.out:
        if not (out / "results.jsonl").exists():
            sys.exit(f"{out}: holds no results.jsonl; run benchmarks/on_gpu.sh {out} first")
    results = read_all(given.out)
    for goal in all_goals(results):
        print(f"{ {True: 'met', False: 'MISSED', None: '-'}[goal.met]:7}{goal.text}: {goal.measured}")
    if results.about.get("dry"):
        print("a dry run: nothing is written")
        return
    target = given.json or ROOT / "benchmarks" / f"gpu_{results.slug}.json"
    target.write_text(json.dumps(results.record(), indent=1) + "\n")
    given.docs.write_text(replace_section(given.docs.read_text(), report(results)))
    print(f"written: {target}, {given.docs}")


if __name__ == "__main__":
    main()
