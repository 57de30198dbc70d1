"""`featup upsample`: pictures in, features per pixel out."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from featup_cli.cli import options
from featup_cli.cli.console import Console, report_errors
from featup_cli.cli.options import INPUT, METHOD, OUTPUT, RUN
from featup_cli.core.errors import UsageError
from featup_cli.upsamplers.implicit.config import ImplicitConfig, implicit_config
from featup_cli.upsamplers.registry import METHODS

EXAMPLES = (
    "Examples:  featup upsample photo.jpg  |  "
    "featup upsample *.jpg -o out --backbone dinov2 --method implicit  |  "
    "featup upsample photo.jpg --method jbu --output-size image  |  "
    "featup upsample photo.jpg --backbone mobilenetv2_100 --layer 3 --weights mobilenet.safetensors  |  "
    "featup upsample photos --recursive -o out --method jbu --devices 0,1"
)
METHOD_HELP = "; ".join(f"{name}: {about}" for name, about in ((m.name, m.about) for m in METHODS.values()))

Method = Enum("Method", {name: name for name in METHODS}, type=str)  # type: ignore[misc]
Downsampler = Enum("Downsampler", {name: name for name in ("attention", "simple")}, type=str)  # type: ignore[misc]
Engine = Enum("Engine", {name: name for name in ("local", "ray")}, type=str)  # type: ignore[misc]
Representation = Enum("Representation", {name: name for name in ("network", "buffer")}, type=str)  # type: ignore[misc]


@report_errors
def upsample(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Pictures in any format that Pillow reads, folders, quoted patterns ('a/*.jpg'), lists of paths "
            "(LIST.txt), or - for a list on standard input.",
            metavar="IMAGE|FOLDER|LIST.txt|-",
        ),
    ],
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", rich_help_panel=INPUT, help="Search the subfolders of folders.")
    ] = False,
    resize: options.Resize = None,
    max_pixels: options.MaxPixels = 200_000_000,
    backbone: options.BackboneName = "tiny",
    layer: options.Layer = None,
    no_norm: options.NoNorm = False,
    weights: options.Weights = None,
    backbone_arg: options.BackboneArg = None,
    offline: options.Offline = False,
    random_weights: options.RandomWeights = False,
    precision: options.PrecisionOption = options.Precision.auto,  # type: ignore[attr-defined]
    method: Annotated[
        Method, typer.Option("--method", "-m", rich_help_panel=METHOD, help=METHOD_HELP)
    ] = Method.implicit,  # type: ignore[attr-defined]
    upsampler: options.UpsamplerWeights = "auto",
    allow_other_backbone: options.AllowOtherBackbone = False,
    preset: options.PresetOption = options.Preset.default,  # type: ignore[attr-defined]
    max_steps: Annotated[
        int | None,
        typer.Option(
            "--max-steps",
            rich_help_panel=METHOD,
            show_default=False,
            help=f"implicit: optimisation steps at most. (default: {ImplicitConfig.max_steps})",
        ),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            "--views",
            rich_help_panel=METHOD,
            show_default=False,
            help=f"implicit: jittered views to fit. (default: {ImplicitConfig.views})",
        ),
    ] = None,
    downsampler: Annotated[
        Downsampler | None,
        typer.Option(
            "--downsampler",
            rich_help_panel=METHOD,
            show_default=False,
            help="implicit: learned pooling, by saliency or one blur kernel. (default: attention)",
        ),
    ] = None,
    uncertainty: Annotated[
        bool | None,
        typer.Option(
            "--uncertainty/--no-uncertainty",
            rich_help_panel=METHOD,
            show_default=False,
            help="implicit: weigh tokens by a learned uncertainty. (default: on)",
        ),
    ] = None,
    tv_weight: Annotated[
        float | None,
        typer.Option(
            "--tv-weight",
            rich_help_panel=METHOD,
            show_default=False,
            help=f"implicit: total-variation prior. (default: {ImplicitConfig.tv_weight})",
        ),
    ] = None,
    color: Annotated[
        bool | None,
        typer.Option(
            "--color-features/--no-color-features",
            rich_help_panel=METHOD,
            show_default=False,
            help="implicit: show the network the picture's colours. (default: on)",
        ),
    ] = None,
    frequencies: Annotated[
        int | None,
        typer.Option(
            "--frequencies",
            rich_help_panel=METHOD,
            show_default=False,
            help=f"implicit: Fourier frequencies. (default: {ImplicitConfig.frequencies})",
        ),
    ] = None,
    representation: Annotated[
        Representation | None,
        typer.Option(
            "--representation",
            rich_help_panel=METHOD,
            show_default=False,
            help="implicit: network, or an explicit buffer of features. (default: network)",
        ),
    ] = None,
    settings: options.Settings = None,
    output: options.OutputDir = Path("features"),
    output_size: options.OutputSize = None,
    dtype: options.DTypeOption = options.DType.float16,
    storage: options.StorageOption = options.Storage.full,
    save_model: Annotated[
        bool,
        typer.Option(
            "--save-model",
            rich_help_panel=OUTPUT,
            help="implicit: also write STEM.model.safetensors, for `featup render`.",
        ),
    ] = False,
    picture: Annotated[
        bool, typer.Option("--picture/--no-picture", rich_help_panel=OUTPUT, help="Write STEM.png as well.")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=OUTPUT, help="Make what is up to date anew.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", rich_help_panel=RUN, help="List what would be made or skipped, and why.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", rich_help_panel=RUN, help="Stop at the first picture that fails.")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            min=1,
            rich_help_panel=RUN,
            show_default=False,
            help="Pictures that the backbone sees at once, at most. (default: 8 on a GPU, 2 on a CPU)",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            rich_help_panel=RUN,
            show_default=False,
            help="Threads of a worker that read, and that write. (default: its share of the cores, at most 8)",
        ),
    ] = None,
    device: options.Device = "auto",
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices",
            rich_help_panel=RUN,
            show_default=False,
            help="One worker process for each: 0,1 for two GPUs, cpu:2 for two on the CPU. (default: one, on --device)",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="INDEX/COUNT|auto",
            rich_help_panel=RUN,
            show_default=False,
            help="Do one part of the pictures, such as 3/16; auto: the part that torchrun or SLURM gives this process.",
        ),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(
            "--engine",
            rich_help_panel=RUN,
            help="local: processes of this machine; ray: of the cluster at RAY_ADDRESS, or of a local one.",
        ),
    ] = Engine.local,  # type: ignore[attr-defined]
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            rich_help_panel=RUN,
            show_default=False,
            help="ray: worker processes in all. (default: one for each GPU, or one for each machine if there are none)",
        ),
    ] = None,
    memory: options.Memory = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Upsample the features of pictures: writes STEM.safetensors and STEM.png for each; goes on where it stopped."""
    console = Console(quiet, as_json)
    config = implicit_config(
        preset.value,
        given={
            "max_steps": max_steps, "views": views, "uncertainty": uncertainty, "tv_weight": tv_weight,
            "color_features": color, "frequencies": frequencies,
            "downsampler": downsampler and downsampler.value,
            "representation": representation and representation.value,
        },
        texts=settings or [],
    )  # fmt: skip
    if save_model and not METHODS[method.value].fits_model:
        raise UsageError(f"--save-model: method {method.value} fits no model; use --method implicit")
    chosen = options.backbone_config(
        backbone, layer, no_norm, weights, backbone_arg, offline, random_weights, precision
    )

    from featup_cli.batch.run import plan_run
    from featup_cli.batch.shards import join_shards, local_device, parse_shard
    from featup_cli.cli.running import report_preview, report_run
    from featup_cli.core.memory import parse_bytes
    from featup_cli.engine.pipeline import Output, Upsampling

    run = plan_run(
        images,
        output,
        Upsampling(
            backbone=chosen, method=method.value, implicit=config, resize=resize, output_size=output_size,
            device=local_device(device) if shard == "auto" else device, seed=seed, max_pixels=max_pixels,
            upsampler=upsampler, allow_other_backbone=allow_other_backbone,
            memory=None if memory is None else parse_bytes(memory),
        ),
        Output(dtype=dtype.value, storage=storage.value, model=save_model, picture=picture),
        recursive=recursive, devices=devices, shard=parse_shard(shard) if shard is not None else None,
        overwrite=overwrite, batch=batch, threads=jobs, engine=engine.value, workers=workers,
    )  # fmt: skip
    if dry_run:
        raise typer.Exit(report_preview(run, console))
    with join_shards(shard) as worst:
        status = worst(report_run(run, console, fail_fast=fail_fast))
    if status:
        raise typer.Exit(status)
