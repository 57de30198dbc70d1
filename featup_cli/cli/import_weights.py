"""`featup import-weights`: upsamplers that others trained, as files of ours."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from featup_cli.backbones.registry import resolve_alias
from featup_cli.cli import options
from featup_cli.cli.console import Console, report_errors
from featup_cli.cli.options import INPUT, OUTPUT

EXAMPLES = (
    "Examples:  featup import-weights dino16_jbu_stack_cocostuff.ckpt -o dino16.safetensors  |  "
    "featup import-weights mine.pth -o mine.safetensors --backbone dinov2"
)

Kind = Enum("Kind", {name: name for name in ("jbu-released", "resfu")}, type=str)  # type: ignore[misc]


@report_errors
def import_weights(
    checkpoint: Annotated[
        Path, typer.Argument(help="FeatUp's .ckpt, or a ReSFU state dict; never executed.", metavar="CKPT")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The safetensors file to write.", rich_help_panel=OUTPUT)
    ],
    method: Annotated[
        Kind | None,
        typer.Option(
            "--method", "-m", help="What the checkpoint holds. (default: found out)",
            show_default=False, rich_help_panel=INPUT,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone", "-b",
            help="Alias or timm name of the backbone that it was trained for. (default: known for FeatUp's own files)",
            show_default=False, rich_help_panel=INPUT,
        ),
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Convert a checkpoint of FeatUp's JBU or of ReSFU to a file for --upsampler."""
    from featup_cli.io.digest import file_sha256
    from featup_cli.upsamplers.jbu.releases import LICENSE
    from featup_cli.upsamplers.weights.file import save_upsampler
    from featup_cli.upsamplers.weights.identity import describe_identity
    from featup_cli.upsamplers.weights.imported import read_checkpoint
    from featup_cli.upsamplers.weights.releases import release_of_file

    console = Console(quiet, as_json)
    found = read_checkpoint(checkpoint, method and method.value)
    release = release_of_file(checkpoint.name, found.channels) if found.kind == "jbu-released" else None
    identity: dict[str, Any] = {"name": None, "channels": found.channels}
    if backbone is not None:
        identity["name"] = resolve_alias(backbone)
    elif release is not None:
        identity = release.backbone
    facts = {
        "method": found.kind, "channels": found.channels, "normed": found.normed, "parameters": found.parameters,
        "ignored_tensors": found.ignored, "backbone": identity,
    }  # fmt: skip
    provenance = {
        "file": checkpoint.name,
        "sha256": file_sha256(checkpoint),
        "license": LICENSE if release else "as its authors say; not recorded in the checkpoint",
    }
    card = f"{found.kind} for {describe_identity(identity)}, imported from {checkpoint.name}"
    save_upsampler(output, found.upsampler, {"backbone": identity, "provenance": provenance, "card": card})
    norm = "with a norm over channels before it" if found.normed else "without a norm before it"
    console.note(
        f"{checkpoint}: {found.kind}, {found.parameters:,} parameters, {found.channels} channels, {norm}; for "
        f"{describe_identity(identity)}; {found.ignored} tensors of other parts left out"
    )
    if identity["name"] is None:
        console.note("note: nothing says which backbone it is for; --backbone NAME records it, so that it is checked")
    console.result(str(output), {"input": str(checkpoint), "output": str(output), **facts, "provenance": provenance})
