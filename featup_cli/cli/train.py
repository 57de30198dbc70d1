"""`featup train`: pictures in, weights of a feed-forward upsampler out."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from featup_cli.cli import options
from featup_cli.cli.console import EXIT_INTERRUPTED, Console, report_errors
from featup_cli.cli.options import INPUT, METHOD, OUTPUT, RUN
from featup_cli.core.settings import change_settings
from featup_cli.training.config import TrainConfig
from featup_cli.upsamplers.registry import TRAINABLE

EXAMPLES = (
    "Examples:  featup train --images photos -o jbu.safetensors  |  "
    "featup train --method resfu --backbone dinov2 --images photos -o resfu.safetensors --set steps=4000  |  "
    "torchrun --nproc-per-node 4 -m featup_cli train --images photos -o jbu.safetensors --set batch=16"
)
UPSAMPLER = "upsampler."  # what the settings of the upsampler itself start with

Trainable = Enum("Trainable", {name: name for name in TRAINABLE}, type=str)  # type: ignore[misc]


@report_errors
def train(
    images: Annotated[
        list[Path],
        typer.Option(
            "--images", rich_help_panel=INPUT,
            help="Folder of training pictures, searched with all below it. Repeatable.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", rich_help_panel=OUTPUT, help="Weights file to write.")],
    backbone: options.BackboneName = "tiny",
    layer: options.Layer = None,
    no_norm: options.NoNorm = False,
    weights: options.Weights = None,
    backbone_arg: options.BackboneArg = None,
    offline: options.Offline = False,
    random_weights: options.RandomWeights = False,
    precision: options.PrecisionOption = options.Precision.auto,  # type: ignore[attr-defined]
    method: Annotated[
        Trainable,
        typer.Option(
            "--method", "-m", rich_help_panel=METHOD,
            help="jbu: weights serve every backbone, as they see the picture only; all others: for this backbone.",
        ),
    ] = Trainable.jbu,  # type: ignore[attr-defined]
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", rich_help_panel=METHOD, metavar="KEY=VALUE", show_default=False,
            help="A setting of TrainConfig, e.g. steps=4000, or with upsampler. before it one of the upsampler, "
            "e.g. upsampler.radius=2 (docs/training.md). Repeatable.",
        ),
    ] = None,
    run_folder: Annotated[
        Path | None,
        typer.Option(
            "--run-folder", rich_help_panel=OUTPUT, show_default=False,
            help="Configuration, curves and checkpoint. (default: OUTPUT with suffix .run)",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", rich_help_panel=OUTPUT, show_default=False,
            help="Features of the backbone; runs can share it. (default: `cache` in the run folder)",
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            "--init", rich_help_panel=METHOD, show_default=False,
            help="Weights of the same method to start from, e.g. of `featup train`; what doesn't fit starts anew.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", rich_help_panel=RUN, help="Go on from the checkpoint in the run folder.")
    ] = False,
    save_every: Annotated[
        float, typer.Option("--save-every", min=0, rich_help_panel=RUN, help="Seconds between two checkpoints.")
    ] = 60.0,
    threads: Annotated[
        int, typer.Option("--threads", min=0, rich_help_panel=RUN, help="CPU threads; 0 for PyTorch's own choice.")
    ] = 0,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Train an upsampler on your own pictures, by reconstructing jittered views (FeatUp, section 3)."""
    # Under torchrun every process comes here; the first one talks.
    silent = int(os.environ.get("RANK", "0")) > 0
    console = Console(quiet or silent, as_json and not silent)
    texts = settings or []
    config = change_settings(TrainConfig(), [t for t in texts if not t.startswith(UPSAMPLER)])
    inner = [t.removeprefix(UPSAMPLER) for t in texts if t.startswith(UPSAMPLER)]
    upsampler = change_settings(TRAINABLE[method.value].config(), inner, UPSAMPLER)
    chosen = options.backbone_config(
        backbone, layer, no_norm, weights, backbone_arg, offline, random_weights, precision
    )

    import torch

    from featup_cli.training.run import Training
    from featup_cli.training.run import train as run_training
    from featup_cli.training.trainer import Interrupted

    if threads:
        torch.set_num_threads(threads)
    training = Training(
        images, output, upsampler, chosen, config, run_folder, cache, resume, device, seed, save_every, init
    )
    try:
        with console.progress() as progress:
            result = run_training(training, progress=progress, note=console.note)
    except Interrupted as stop:
        if not silent:
            typer.echo(f"{stop}, and saved; go on with the same command and --resume", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    skipped = f", {result.skipped} skipped" if result.skipped else ""
    console.note(f"{result.pictures} pictures, {result.heldout} held out{skipped}; {result.seconds / 60:.1f} min")
    console.note(
        f"best at step {result.step} of {result.steps}: explains {result.scores['explained_variance']:.1%} "
        f"of {result.goal} (bilinear {result.scores['bilinear_explained_variance']:.1%})"
    )
    record = {
        "output": str(result.output), "run_folder": str(training.folder), "scores": result.scores,
        "step": result.step, "steps": result.steps, "pictures": result.pictures, "heldout": result.heldout,
        "skipped": result.skipped, "seconds": result.seconds,
    }  # fmt: skip
    console.result(str(result.output), record)
