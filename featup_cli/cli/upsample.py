"""`featup upsample`: pictures in, features per pixel out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from featup_cli.cli.command import command
from featup_cli.cli.config import Settings
from featup_cli.cli.groups import (
    BackboneOptions,
    ColourOptions,
    ConsoleOptions,
    FitOptions,
    InputOptions,
    MethodOptions,
    OutputOptions,
    ReplaceOptions,
    RunOptions,
)
from featup_cli.cli.unread import refuse_unread
from featup_cli.core.devices import check_devices
from featup_cli.core.errors import UsageError
from featup_cli.core.options import INPUT, OUTPUT, RUN, argument, group, like, option
from featup_cli.core.shapes import DEFAULT_MAX_PIXELS, check_resize
from featup_cli.io.replace import refuse_replacing
from featup_cli.upsamplers.registry import DEFAULT_METHOD, METHODS

if TYPE_CHECKING:
    from featup_cli.batch.run import BatchOptions
    from featup_cli.engine.settings import Output


@dataclass(frozen=True)
class PictureOptions:
    """Which pictures, and how large they may be."""

    PANEL = INPUT

    images: tuple[str, ...] = argument(
        "Pictures, folders, quoted patterns ('a/*.jpg'), lists of paths (LIST.txt), or - for a list on standard input. "
        "A picture may have any format that Pillow reads.",
        metavar="IMAGE|FOLDER|LIST.txt|-",
    )
    recursive: bool = option(False, "Search subfolders too.", "--recursive", "-r", common=True)
    resize: str | None = like(InputOptions, "resize")
    mask: Path | None = option(
        None,
        "Regions whose mean features are stored too: a picture of labels or colours, or for several pictures a folder "
        "of masks with their names.",
        metavar="FILE|FOLDER",
        is_read=True,
    )
    max_pixels: int = option(DEFAULT_MAX_PIXELS, "Reject pictures with more pixels.", min=1)

    def __post_init__(self) -> None:
        check_resize(self.resize)


@dataclass(frozen=True)
class FileOptions:
    """Which files are written."""

    PANEL = OUTPUT

    features: OutputOptions = group()
    save_model: bool = option(
        False,
        "implicit: also write a model for `featup render`. It is STEM.model.safetensors.",
        common=True,
        read_by=lambda method: method.fits_model,
    )
    picture: bool = option(True, "Write STEM.png as well.")
    colours: ColourOptions = group()
    overwrite: bool = like(
        ReplaceOptions,
        "overwrite",
        help="Re-create results. Also those that are up to date or of other settings.",
        common=True,
    )

    def check_colours(self, shard: str | None) -> None:
        """Raise UsageError for a file of colours that shards can't make, or that would be replaced."""
        if self.colours.save_basis is None:
            return
        if shard is not None:
            raise UsageError("--save-basis: a shard has a part of the results only; give them all to featup visualize")
        refuse_replacing(self.colours.save_basis, self.overwrite)

    def asked(self, method: str) -> Output:
        """The files as the library is asked for them; a settings file may ask for a model that the method lacks."""
        from featup_cli.engine.settings import Output

        f = self.features
        return Output(
            f.dtype,
            f.storage,
            model=self.save_model and METHODS[method].fits_model,
            picture=self.picture,
            basis=self.colours.basis,
        )


@dataclass(frozen=True)
class WorkerOptions:
    """How the work is distributed."""

    PANEL = RUN

    dry_run: bool = option(
        False,
        "List what would be created or skipped, and why. The settings, in the form of featup.toml, are on stderr.",
        common=True,
    )
    fail_fast: bool = option(False, "Stop at the first picture that fails.")
    batch: int | None = option(None, "Largest backbone batch, in pictures. (default: 8 on a GPU, 2 on a CPU)", min=1)
    jobs: int | None = option(
        None,
        "Reader threads, and writer threads, of each worker. (default: its share of the cores, at most 8)",
        "--jobs",
        "-j",
        min=1,
    )
    device: str = like(RunOptions, "device")
    devices: str | None = option(
        None,
        "Devices, one worker process each: 0,1 for two GPUs, cpu:2 for two on the CPU. (default: --device)",
        check=check_devices,
    )
    shard: str | None = option(
        None,
        "Process one shard of the pictures, such as 3/16; auto: the one that torchrun or SLURM assigns.",
        metavar="INDEX/COUNT|auto",
        suggests=lambda: ("auto",),
    )
    engine: Literal["local", "ray"] = option(
        "local", "local: processes on this machine; ray: the Ray cluster at RAY_ADDRESS, or a local one."
    )
    workers: int | None = option(
        None,
        "ray: total number of worker processes. (default: one per GPU, or one per machine without GPUs)",
        min=1,
    )
    memory: str | None = like(RunOptions, "memory")
    seed: int = like(RunOptions, "seed")
    console: ConsoleOptions = group()

    def asked(self, pictures: PictureOptions, overwrite: bool) -> BatchOptions:
        """The same as the library is asked for it.

        Raises:
            UsageError: options exclude each other, or a shard has another form.
        """
        from featup_cli.batch.run import BatchOptions
        from featup_cli.batch.shards import parse_shard

        return BatchOptions(
            recursive=pictures.recursive,
            devices=self.devices,
            shard=parse_shard(self.shard) if self.shard is not None else None,
            overwrite=overwrite,
            batch=self.batch,
            threads=self.jobs,
            engine=self.engine,
            workers=self.workers,
            mask=pictures.mask,
        )


@command(
    examples=[
        "featup upsample photo.jpg",
        f"featup upsample *.jpg -o out --backbone dinov2 --method {DEFAULT_METHOD}",
        "featup upsample photo.jpg --method jbu --output-size image",
        "featup upsample photo.jpg --backbone mobilenetv2_100 --layer 3 --weights net.safetensors",
        "featup upsample photos --recursive -o out --method jbu --devices 0,1",
    ]
)
def upsample(
    pictures: PictureOptions,
    backbone: BackboneOptions,
    method: MethodOptions,
    fit: FitOptions,
    files: FileOptions,
    run: WorkerOptions,
    settings: Settings,
) -> None:
    """Create the features of pictures, or list what would be created."""
    console, config, chosen = run.console.console(), fit.config(), backbone.config()
    refuse_unread([method.method], MethodOptions, FitOptions, FileOptions)
    files.check_colours(run.shard)

    from featup_cli.batch.inputs import refuse_missing

    if not console.as_json:  # which reports a record for it
        refuse_missing(pictures.images)

    from featup_cli.batch.run import plan_run
    from featup_cli.batch.shards import join_shards, local_device
    from featup_cli.cli.running import report_preview, report_run, store_basis
    from featup_cli.core.units import parse_bytes
    from featup_cli.engine.settings import Upsampling

    planned = plan_run(
        pictures.images,
        files.features.output,
        Upsampling(
            backbone=chosen,
            method=method.method,
            implicit=config,
            resize=pictures.resize,
            output_size=files.features.output_size,
            device=local_device(run.device) if run.shard == "auto" else run.device,
            seed=run.seed,
            max_pixels=pictures.max_pixels,
            upsampler=method.upsampler,
            allow_other_backbone=method.allow_other_backbone,
            memory=None if run.memory is None else parse_bytes(run.memory),
        ),
        files.asked(method.method),
        run.asked(pictures, files.overwrite),
    )
    if run.dry_run:
        raise typer.Exit(report_preview(planned, console, settings.toml(("backbone", "method"), without=("dry-run",))))
    with join_shards(run.shard) as worst:
        status = worst(report_run(planned, console, fail_fast=run.fail_fast))
    store_basis(planned, files.colours.save_basis, files.colours.basis, console)
    if status:
        raise typer.Exit(status)
