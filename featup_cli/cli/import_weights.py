"""`featup import-weights`: upsamplers that others trained, as files of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featup_cli.cli.command import command
from featup_cli.cli.groups import INPUT, OUTPUT, ConsoleOptions
from featup_cli.core.options import REQUIRED, argument, option
from featup_cli.upsamplers.registry import IMPORTS


@dataclass(frozen=True)
class CheckpointOptions:
    """Which checkpoint, and what is known of it."""

    PANEL = INPUT

    checkpoint: Path = argument("FeatUp's .ckpt, or a ReSFU state dict; never executed.", metavar="CKPT")
    output: Path = option(REQUIRED, "The safetensors file to write.", "-o", "--output", panel=OUTPUT)
    method: str | None = option(
        None, "What the checkpoint holds. (default: found out)", "--method", "-m", choices=lambda: IMPORTS
    )
    backbone: str | None = option(
        None,
        "Alias or timm name of the backbone that it was trained for. (default: known for FeatUp's own files)",
        "--backbone",
        "-b",
    )


@command(
    examples=[
        "featup import-weights dino16_jbu_stack_cocostuff.ckpt -o dino16.safetensors",
        "featup import-weights mine.pth -o mine.safetensors --backbone dinov2",
    ]
)
def import_weights(given: CheckpointOptions, run: ConsoleOptions) -> None:
    """Convert a checkpoint."""
    from featup_cli.upsamplers.weights.convert import convert
    from featup_cli.upsamplers.weights.identity import describe_identity

    console = run.console()
    facts = convert(given.checkpoint, given.output, given.method, given.backbone)
    identity = facts["backbone"]
    norm = "with a norm over channels before it" if facts["normed"] else "without a norm before it"
    console.note(
        f"{given.checkpoint}: {facts['method']}, {facts['parameters']:,} parameters, {facts['channels']} channels, "
        f"{norm}; for {describe_identity(identity)}; {facts['ignored_tensors']} tensors of other parts left out"
    )
    if identity["name"] is None:
        console.note("note: nothing says which backbone it is for; --backbone NAME records it, so that it is checked")
    console.result(str(given.output), facts)
