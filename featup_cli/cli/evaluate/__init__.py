"""`featup eval`: evaluations that anybody can repeat on pictures of their own."""

from __future__ import annotations

import typer

from featup_cli.cli.evaluate import boundary, cam, consistency, probe, report, retrieval

app = typer.Typer(
    help="Evaluate upsampled features, method by method, with intervals.",
    epilog="docs/evaluation.md defines every score.",
    no_args_is_help=True,
)
app.command("probe", epilog=probe.EXAMPLES)(probe.probe)
app.command("consistency", epilog=consistency.EXAMPLES)(consistency.consistency)
app.command("boundary", epilog=boundary.EXAMPLES)(boundary.boundary)
app.command("cam", epilog=cam.EXAMPLES)(cam.cam)
app.command("retrieval", epilog=retrieval.EXAMPLES)(retrieval.retrieval)
app.command("report", epilog=report.EXAMPLES)(report.report)
