"""Which backbone a file of weights is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featup_cli.backbones.api import Backbone
from featup_cli.core.errors import WeightsError
from featup_cli.core.text import counted


def backbone_identity(backbone: Backbone) -> dict[str, Any]:
    """What fixes the features that an upsampler is trained on, for the metadata of its file."""
    return {
        "name": backbone.resolved,
        "channels": backbone.channels,
        "stride": backbone.stride,
        "layer": backbone.layer,
        "norm_applied": backbone.norm_applied,
        "weights_sha256": backbone.weights_sha256,
    }


def check_backbone(
    metadata: Mapping[str, Any], backbone: Backbone, source: str, allow_other: bool = False
) -> list[str]:
    """Whether an upsampler was made for the features of a backbone.

    Args:
        metadata: of `load_upsampler`; what they don't say is not checked.
        backbone: whose features are to be upsampled.
        source: the file or name, for messages.
        allow_other: let features of another backbone pass if they have the right number of channels.
    Returns:
        Sentences that the user should read.
    Raises:
        WeightsError: the backbone, its layer, norm, stride or number of channels differ; both sides are named.
    """
    wanted, given = metadata["backbone"], backbone_identity(backbone)
    if wanted == "any":
        return []

    def differs(key: str) -> bool:
        return wanted.get(key) is not None and wanted[key] != given[key]

    sides = f"is for {describe_identity(wanted)}, but the features are of {describe_identity(given)}"
    if differs("channels"):
        raise WeightsError(f"upsampler {source} {sides}")
    other_name = wanted.get("name") is not None and not _same_model(wanted["name"], given["name"])
    if other_name or any(differs(key) for key in ("stride", "layer", "norm_applied")):
        if allow_other:
            return [f"upsampler {source} {sides}"]
        raise WeightsError(
            f"upsampler {source} {sides}; choose that backbone, train an upsampler for this one (`featup train`), or "
            "try it all the same with --allow-other-backbone"
        )
    if wanted.get("name") is None:
        return [f"upsampler {source} does not say which backbone it is for; only its channels fit for certain"]
    if differs("weights_sha256"):
        return [f"upsampler {source} was trained on other weights of {given['name']}"]
    return []


def describe_identity(identity: Mapping[str, Any] | str) -> str:
    """One phrase for the `backbone` of a file's metadata."""
    if isinstance(identity, str):
        return "any backbone"
    parts = [str(identity.get("name") or "an unknown backbone")]
    parts += [counted(identity["channels"], "channel")] if identity.get("channels") else []
    parts += [f"{key} {identity[key]}" for key in ("stride", "layer") if identity.get(key) is not None]
    norm = identity.get("norm_applied")
    parts += [] if norm is None else ["final norm applied" if norm else "no final norm"]
    return f"{parts[0]} ({', '.join(parts[1:])})" if parts[1:] else parts[0]


def _same_model(wanted: str, given: str) -> bool:
    """Whether timm names mean the same weights; one without a tag means any weights of that architecture."""
    architecture, _, tag = wanted.partition(".")
    return wanted == given or (not tag and given.partition(".")[0] == architecture)
