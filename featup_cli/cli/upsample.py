"""`featup upsample`: pictures in, features per pixel out."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featup_cli.cli import options
from featup_cli.cli.console import EXIT_FAILED, Console, error_message, report_errors
from featup_cli.cli.options import METHOD, OUTPUT
from featup_cli.config import METHODS, ImplicitConfig, implicit_config
from featup_cli.errors import UsageError

if TYPE_CHECKING:
    from featup_cli.pipeline import Pipeline

EXAMPLES = (
    "Examples:  featup upsample photo.jpg  |  "
    "featup upsample *.jpg -o out --backbone dinov2 --method implicit  |  "
    "featup upsample photo.jpg --method jbu --output-size image  |  "
    "featup upsample photo.jpg --backbone mobilenetv2_100 --layer 3 --weights mobilenet.safetensors"
)
METHOD_HELP = "; ".join(f"{name}: {about}" for name, about in METHODS.items())

Method = Enum("Method", {name: name for name in METHODS}, type=str)  # type: ignore[misc]
Downsampler = Enum("Downsampler", {name: name for name in ("attention", "simple")}, type=str)  # type: ignore[misc]
Representation = Enum("Representation", {name: name for name in ("network", "buffer")}, type=str)  # type: ignore[misc]


@report_errors
def upsample(
    images: Annotated[list[Path], typer.Argument(help="Pictures, in any format that Pillow reads.", metavar="IMAGE")],
    resize: options.Resize = None,
    max_pixels: options.MaxPixels = 200_000_000,
    backbone: options.BackboneName = "tiny",
    layer: options.Layer = None,
    no_norm: options.NoNorm = False,
    weights: options.Weights = None,
    backbone_arg: options.BackboneArg = None,
    offline: options.Offline = False,
    random_weights: options.RandomWeights = False,
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
    device: options.Device = "auto",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Upsample the features of pictures: writes STEM.safetensors and STEM.png for each."""
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
    targets = unique_targets(images, output)
    if picture:
        refuse_overwriting(images, targets)
    if save_model and method.value != "implicit":
        raise UsageError(f"--save-model: method {method.value} fits no model; use --method implicit")
    chosen = options.backbone_config(backbone, layer, no_norm, weights, backbone_arg, offline, random_weights)

    from featup_cli.pipeline import Pipeline, Upsampling

    pipeline = Pipeline(
        Upsampling(
            backbone=chosen, method=method.value, implicit=config, resize=resize, output_size=output_size,
            device=device, seed=seed, max_pixels=max_pixels, upsampler=upsampler,
            allow_other_backbone=allow_other_backbone,
        ),
        announce=None if quiet or as_json else console.note,
    )  # fmt: skip
    console.note(describe_backbone(pipeline))
    failed = 0
    for image, target in zip(images, targets, strict=True):
        try:
            upsample_one(pipeline, console, image, target, dtype.value, storage.value, save_model, picture)
        except Exception as error:  # one bad picture must not stop the others; the unexpected is raised again
            message = error_message(error)
            if message is None or len(images) == 1:
                raise
            console.error(message)
            if as_json:
                console.result("", {"input": str(image), "error": message})
            failed += 1
    if failed:
        console.error(f"{failed} of {len(images)} images failed")
        raise typer.Exit(EXIT_FAILED)


def upsample_one(
    pipeline: Pipeline, console: Console, image: Path, target: Path, dtype: str, storage: str,
    save_model: bool, picture: bool,
) -> None:  # fmt: skip
    """Upsample one picture, write its files and report."""
    with console.progress() as progress:
        result = pipeline.run(image, progress)
    for note in result.notes:
        console.note(f"note: {note}")
    written = {"output": str(result.save(target, dtype=dtype, storage=storage))}
    if save_model:
        written["model"] = str(result.save_model(target.with_suffix(".model.safetensors")))
    if picture:
        written["picture"] = str(result.save_picture(target.with_suffix(".png")))
    channels, height, width = result.features.shape
    scores = "  ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
    console.note(f"{image}: {channels} channels, {height}x{width}, {result.seconds:.1f} s  {scores}".rstrip())
    record = {
        "input": str(image), **written, "shape": [channels, height, width],
        "seconds": result.seconds, "scores": result.scores,
    }  # fmt: skip
    console.result("\n".join(written.values()), record)


def unique_targets(images: list[Path], folder: Path) -> list[Path]:
    """FOLDER/STEM.safetensors for each picture.

    Raises:
        UsageError: two pictures would be written to the same file.
    """
    targets: dict[Path, Path] = {}
    for image in images:
        target = folder / f"{image.stem}.safetensors"
        if target in targets:
            raise UsageError(f"{image} and {targets[target]} would both be written to {target}; rename one")
        targets[target] = image
    return list(targets)


def refuse_overwriting(images: list[Path], targets: list[Path]) -> None:
    """Raise UsageError if the picture of a result would replace an input, as photo.png in its own folder would."""
    for target in (t.with_suffix(".png") for t in targets):
        if target.exists() and any(image.exists() and target.samefile(image) for image in images):
            raise UsageError(f"{target}: would be overwritten, but it is an input; choose another --output")


def describe_backbone(pipeline: Pipeline) -> str:
    """One line that says which backbone runs, where, and how to get a bigger one."""
    b = pipeline.backbone
    line = f"backbone {b.name} ({b.resolved}, {b.channels} channels, stride {b.stride}) on {pipeline.device_name}"
    if b.resolved == "tiny":
        line += "; for richer features: --backbone dinov2 (downloads weights; `featup info` lists more)"
    return line
