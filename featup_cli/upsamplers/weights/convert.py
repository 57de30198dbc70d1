"""Checkpoints of others as files of ours: what `featup import-weights` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featup_cli.backbones.registry import resolve_alias
from featup_cli.io.digest import file_sha256
from featup_cli.upsamplers.weights.file import save_upsampler
from featup_cli.upsamplers.weights.identity import describe_identity
from featup_cli.upsamplers.weights.imported import read_checkpoint
from featup_cli.upsamplers.weights.releases import release_of_file


def convert(checkpoint: Path, output: Path, kind: str | None = None, backbone: str | None = None) -> dict[str, Any]:
    """Write a checkpoint of others as a file for `--upsampler`.

    Args:
        checkpoint: never executed.
        output: the safetensors file.
        kind: what the checkpoint holds, a key of `IMPORTS`; None finds out.
        backbone: alias or timm name of the backbone that it was trained for; None where only released files tell.
    Returns:
        What was found, as JSON values: `input`, `output`, `method`, `channels`, `normed`, `parameters`,
        `ignored_tensors`, `backbone` and `provenance`.
    Raises:
        WeightsError: as `read_checkpoint`; OutputError: the file can't be written.
    """
    found = read_checkpoint(checkpoint, kind)
    release = release_of_file(checkpoint.name, found.kind, found.channels)
    identity: dict[str, Any] = {"name": None, "channels": found.channels}
    if backbone is not None:
        identity["name"] = resolve_alias(backbone)
    elif release is not None:
        identity = release.backbone
    provenance = {
        "file": checkpoint.name,
        "sha256": file_sha256(checkpoint),
        "license": release.license if release else "as its authors say; not recorded in the checkpoint",
    }
    card = f"{found.kind} for {describe_identity(identity)}, imported from {checkpoint.name}"
    save_upsampler(output, found.upsampler, {"backbone": identity, "provenance": provenance, "card": card})
    return {
        "input": str(checkpoint),
        "output": str(output),
        "method": found.kind,
        "channels": found.channels,
        "normed": found.normed,
        "parameters": found.parameters,
        "ignored_tensors": found.ignored,
        "backbone": identity,
        "provenance": provenance,
    }
