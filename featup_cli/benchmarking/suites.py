"""The suites of `featup bench`, each declared once. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """Measurements under one name.

    Attributes:
        name: value of `--suite`.
        about: text for its help.
        run: "module:function" of (settings, device, note) that gives `rows`, JSON values, and what else the report
            holds.
        tables: "module:function" of a report, for people.
        unused: names of options of `featup bench` that it doesn't read.
    """

    name: str
    about: str
    run: str
    tables: str
    unused: tuple[str, ...] = ()


_HERE = "featup_cli.benchmarking"
SUITES = {
    suite.name: suite
    for suite in (
        Suite("table6", "the paper's eight rows", f"{_HERE}.table6:measure", f"{_HERE}.report:kernel_tables"),
        Suite(
            "upsamplers",
            "its figures 16 and 17",
            f"{_HERE}.upsamplers:measure",
            f"{_HERE}.report:upsampler_tables",
            unused=("baselines",),
        ),
        Suite(
            "pipeline",
            "the main job by stage",
            f"{_HERE}.main_job:measure",
            f"{_HERE}.report:stage_tables",
            unused=("dtype", "baselines"),
        ),
    )
}
"""By name."""
