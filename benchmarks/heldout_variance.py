"""How much of unseen views implicit FeatUp and bilinear features explain, and the seconds and memory it takes.

python benchmarks/heldout_variance.py PICTURE... --backbone mobilenetv2_100 --layer 3 --weights WEIGHTS -o FILE.json
"""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Annotated

import torch
import typer

from featup_cli.backbones import BackboneConfig
from featup_cli.backbones.aliases import parse_model_args
from featup_cli.config import implicit_config
from featup_cli.environment import describe_device, versions
from featup_cli.pipeline import Pipeline, Upsampling


def main(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, or one folder of them.")],
    count: Annotated[int, typer.Option(help="Of a folder, this many, evenly spaced.")] = 10,
    backbone: Annotated[str, typer.Option()] = "tiny",
    layer: Annotated[int | None, typer.Option()] = None,
    weights: Annotated[Path | None, typer.Option()] = None,
    backbone_arg: Annotated[list[str] | None, typer.Option()] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Settings of implicit.")] = None,
    preset: Annotated[str, typer.Option()] = "default",
    output: Annotated[Path | None, typer.Option("-o", help="Write the scores as JSON.")] = None,
) -> None:
    """Held-out explained variance of implicit FeatUp beside bilinear features, picture by picture."""
    if len(pictures) == 1 and pictures[0].is_dir():
        everything = sorted(p for p in pictures[0].iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        pictures = [everything[i * len(everything) // count] for i in range(min(count, len(everything)))]
    config = BackboneConfig(backbone, layer, weights=weights, model_args=parse_model_args(backbone_arg or []))
    implicit = implicit_config(preset, {}, settings or [])
    pipeline = Pipeline(Upsampling(config, "implicit", implicit, device="cpu"))
    rows = []
    for picture in pictures:
        result = pipeline.run(picture)
        rows.append({"picture": picture.name, "seconds": result.seconds, **result.scores})
        typer.echo(
            f"{picture.name:24} bilinear {rows[-1]['bilinear_explained_variance']:.3f}  "
            f"implicit {rows[-1]['explained_variance']:.3f}  {result.seconds:5.1f} s"
        )
    means = {key: sum(r[key] for r in rows) / len(rows) for key in rows[0] if key != "picture"}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    typer.echo(
        f"{'mean':24} bilinear {means['bilinear_explained_variance']:.3f}  implicit {means['explained_variance']:.3f}  "
        f"{means['seconds']:5.1f} s  peak {peak:.0f} MiB"
    )
    if output is not None:
        report = {
            "backbone": pipeline.backbone.describe(), "implicit": vars(implicit), "versions": versions(),
            "device": describe_device(torch.device("cpu")), "mean": means, "peak_mib": peak, "pictures": rows,
        }  # fmt: skip
        output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
