"""`featup train`: pictures in, weights of a feed-forward upsampler out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from featup_cli.cli.command import command
from featup_cli.cli.console import EXIT_INTERRUPTED, Console
from featup_cli.cli.groups import BackboneOptions, ConsoleOptions, ReplaceOptions, RunOptions
from featup_cli.core.options import INPUT, METHOD, OUTPUT, REQUIRED, RUN, group, like, option
from featup_cli.core.references import resolve
from featup_cli.core.settings import change_settings
from featup_cli.core.text import counted
from featup_cli.training.config import PRESETS, TrainConfig
from featup_cli.upsamplers.jbu.method import JBU
from featup_cli.upsamplers.registry import TRAINABLE

UPSAMPLER = "upsampler."  # what the settings of the upsampler itself start with


@dataclass(frozen=True)
class PictureOptions:
    """What to train on, and where the weights go."""

    images: tuple[Path, ...] = option(
        REQUIRED, "Folder of training pictures, searched with its subfolders. Repeatable.", panel=INPUT
    )
    output: Path = option(REQUIRED, "Weights file to write.", "-o", "--output", panel=OUTPUT, own=True)


@dataclass(frozen=True)
class TrainingOptions:
    """What to train, how, and where its files go."""

    method: str = option(
        JBU.name,
        "jbu: the weights serve every backbone, as jbu reads the picture only; others: for this backbone.",
        "--method",
        "-m",
        panel=METHOD,
        choices=lambda: TRAINABLE,
        common=True,
    )
    preset: str = option(
        "default",
        "Settings of training and upsampler to start from. paper: table 7 of FeatUp, and for jbu its section 3.2, as "
        "printed.",
        panel=METHOD,
        choices=lambda: PRESETS,
        common=True,
    )
    settings: tuple[str, ...] = option(
        (),
        "A setting of TrainConfig, such as steps=4000, or of the upsampler, such as upsampler.radius=2 "
        "(docs/training.md). It goes above the preset. Repeatable.",
        "--set",
        panel=METHOD,
        metavar="KEY=VALUE",
        common=True,
    )
    run_folder: Path | None = option(
        None, "Folder for settings, curves and checkpoint. (default: OUTPUT with suffix .run)", panel=OUTPUT
    )
    cache: Path | None = option(
        None, "Folder for cached features; runs can share it. (default: `cache` in the run folder)", panel=OUTPUT
    )
    init: Path | None = option(
        None,
        "Initial weights, a file of the same method. Parameters that don't fit start at random.",
        panel=METHOD,
        is_read=True,
    )
    overwrite: bool = like(ReplaceOptions, "overwrite", help="Train anew, and replace weights and run folder.")
    resume: bool = option(False, "Resume from the checkpoint in the run folder.", panel=RUN, common=True)
    save_every: float = option(60.0, "Seconds between checkpoints.", panel=RUN, min=0)
    threads: int = option(0, "CPU threads; 0 leaves PyTorch's choice.", panel=RUN, min=0)
    device: str = like(RunOptions, "device")
    seed: int = like(RunOptions, "seed")
    console: ConsoleOptions = group()


@command(
    examples=[
        "featup train --images photos -o jbu.safetensors",
        "featup train --preset paper --images photos -o jbu.safetensors",
        "featup train --method resfu --backbone dinov2 --images photos -o resfu.safetensors --set steps=4000",
        "torchrun --nproc-per-node 4 -m featup_cli train --images photos -o jbu.safetensors --set batch=16",
    ]
)
def train(pictures: PictureOptions, backbone: BackboneOptions, given: TrainingOptions) -> None:
    """Train, and report the result."""
    config, upsampler = parse_settings(given.method, given.preset, given.settings)
    chosen = backbone.config()
    given.console.console().loading(chosen.name)

    from featup_cli.training.config import Training

    training = Training(
        images=pictures.images,
        output=pictures.output,
        upsampler=upsampler,
        backbone=chosen,
        config=config,
        run_folder=given.run_folder,
        cache=given.cache,
        resume=given.resume,
        overwrite=given.overwrite,
        device=given.device,
        seed=given.seed,
        save_every=given.save_every,
        init=given.init,
    )
    training.check_outputs()

    import torch

    from featup_cli.core.distributed import read_environment
    from featup_cli.training.run import train as run_training
    from featup_cli.training.trainer import Interrupted

    # Under torchrun every process comes here; the first one talks.
    silent = not read_environment().is_main
    console = Console(given.console.quiet or silent, given.console.as_json and not silent)
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        with console.progress() as progress:
            result = run_training(training, progress=progress, note=console.note)
    except Interrupted as stop:
        if not silent:
            typer.echo(f"{stop} and saved; resume with the same command and --resume", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    report(result, training.folder, console)


def parse_settings(method: str, preset: str, texts: Sequence[str]) -> tuple[TrainConfig, Any]:
    """Settings of the training and of the upsampler: a preset changed by `KEY=VALUE` and `upsampler.KEY=VALUE`.

    A method without such a preset starts from its defaults.

    Raises:
        UsageError: an unknown setting, or an invalid value.
    """
    inner = [text.removeprefix(UPSAMPLER) for text in texts if text.startswith(UPSAMPLER)]
    config = change_settings(PRESETS[preset], [text for text in texts if not text.startswith(UPSAMPLER)])
    record = TRAINABLE[method]
    own = resolve(record.presets).get(preset) if record.presets else None
    return config, change_settings(own or record.config(), inner, UPSAMPLER)


def report(result: Any, folder: Path, console: Console) -> None:
    """Report the result of a training."""
    skipped = f", {result.skipped} skipped" if result.skipped else ""
    console.note(
        f"{counted(result.pictures, 'picture')}, {result.heldout} held out{skipped}; {result.seconds / 60:.1f} min"
    )
    console.note(
        f"best at step {result.step} of {result.steps}: explains {result.scores['explained_variance']:.1%} "
        f"of {result.goal} (bilinear {result.scores['bilinear_explained_variance']:.1%})"
    )
    names = ("scores", "step", "steps", "pictures", "heldout", "skipped", "seconds")
    facts = {name: getattr(result, name) for name in names}
    console.result(str(result.output), {"output": str(result.output), "run_folder": str(folder), **facts})
