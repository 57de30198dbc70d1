"""`featup import-weights`: convert upsamplers that others trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featup_cli.backbones.registry import ALIASES
from featup_cli.cli.command import command
from featup_cli.cli.groups import ConsoleOptions, ReplaceOptions
from featup_cli.core.options import INPUT, OUTPUT, REQUIRED, argument, like, option
from featup_cli.core.text import counted
from featup_cli.io.replace import refuse_replacing
from featup_cli.upsamplers.registry import IMPORTS


@dataclass(frozen=True)
class CheckpointOptions:
    """The checkpoint, and facts that it doesn't hold."""

    PANEL = INPUT

    checkpoint: Path = argument("FeatUp's .ckpt, or a ReSFU state dict; never executed.", metavar="CKPT", is_read=True)
    output: Path = option(REQUIRED, "The safetensors file to write.", "-o", "--output", panel=OUTPUT, own=True)
    overwrite: bool = like(ReplaceOptions, "overwrite", panel=OUTPUT)
    method: str | None = option(
        None, "Method of the checkpoint. (default: detected)", "--method", "-m", choices=lambda: IMPORTS, own=True
    )
    backbone: str | None = option(
        None,
        "Alias or timm name of the backbone that it was trained for. (default: detected for FeatUp's files)",
        "--backbone",
        "-b",
        suggests=lambda: ALIASES,
        own=True,
    )


@command(
    examples=[
        "featup import-weights dino16_jbu_stack_cocostuff.ckpt -o dino16.safetensors",
        "featup import-weights mine.pth -o mine.safetensors --backbone dinov2",
    ]
)
def import_weights(given: CheckpointOptions, run: ConsoleOptions) -> None:
    """Convert a checkpoint."""
    refuse_replacing(given.output, given.overwrite, inputs=[given.checkpoint])

    from featup_cli.upsamplers.weights.convert import convert
    from featup_cli.upsamplers.weights.identity import describe_identity

    console = run.console()
    facts = convert(given.checkpoint, given.output, given.method, given.backbone)
    identity = facts["backbone"]
    norm = "with a norm over channels before it" if facts["normed"] else "without a norm before it"
    console.note(
        f"{given.checkpoint}: {facts['method']}, {counted(facts['parameters'], 'parameter')}, "
        f"{counted(facts['channels'], 'channel')}, {norm}; for {describe_identity(identity)}; "
        f"{counted(facts['ignored_tensors'], 'tensor')} of other parts ignored"
    )
    if identity["name"] is None:
        console.note("note: the file doesn't name its backbone; give --backbone NAME so that it can be checked")
    console.result(str(given.output), facts)
