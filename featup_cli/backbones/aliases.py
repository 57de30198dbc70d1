"""Short names for backbones, and the arguments they take. Imports neither torch nor timm: help texts read this."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from featup_cli.errors import UsageError


class Alias(NamedTuple):
    """What a short name stands for: a timm name with its weights tag (or "tiny"), and one line about it."""

    reference: str
    description: str


ALIASES: dict[str, Alias] = {
    "tiny": Alias("tiny", "embedded 1.6 M parameter convnet, stride 16; needs no download"),
    "dino": Alias("vit_small_patch16_224.dino", "DINO ViT-S/16"),
    "dino8": Alias("vit_small_patch8_224.dino", "DINO ViT-S/8, finer and slower"),
    "dino-base": Alias("vit_base_patch16_224.dino", "DINO ViT-B/16"),
    "dino-base8": Alias("vit_base_patch8_224.dino", "DINO ViT-B/8, finer and slower"),
    "dinov2": Alias("vit_small_patch14_dinov2.lvd142m", "DINOv2 ViT-S/14"),
    "dinov2-base": Alias("vit_base_patch14_dinov2.lvd142m", "DINOv2 ViT-B/14"),
    "dinov2-large": Alias("vit_large_patch14_dinov2.lvd142m", "DINOv2 ViT-L/14"),
    "dinov2-reg": Alias("vit_small_patch14_reg4_dinov2.lvd142m", "DINOv2 ViT-S/14 with registers"),
    "dinov2-base-reg": Alias("vit_base_patch14_reg4_dinov2.lvd142m", "DINOv2 ViT-B/14 with registers"),
    "dinov2-large-reg": Alias("vit_large_patch14_reg4_dinov2.lvd142m", "DINOv2 ViT-L/14 with registers"),
    "dinov3": Alias("vit_small_patch16_dinov3.lvd1689m", "DINOv3 ViT-S/16 (DINOv3 licence)"),
    "dinov3-base": Alias("vit_base_patch16_dinov3.lvd1689m", "DINOv3 ViT-B/16 (DINOv3 licence)"),
    "dinov3-large": Alias("vit_large_patch16_dinov3.lvd1689m", "DINOv3 ViT-L/16 (DINOv3 licence)"),
    "dinov3-convnext": Alias("convnext_tiny.dinov3_lvd1689m", "DINOv3 ConvNeXt-T (DINOv3 licence)"),
    "clip": Alias("vit_base_patch16_clip_quickgelu_224.openai", "OpenAI CLIP ViT-B/16"),
    "clip-large": Alias("vit_large_patch14_clip_quickgelu_224.openai", "OpenAI CLIP ViT-L/14"),
    "siglip": Alias("vit_base_patch16_siglip_224.webli", "SigLIP ViT-B/16"),
    "siglip2": Alias("vit_base_patch16_siglip_224.v2_webli", "SigLIP 2 ViT-B/16"),
    "mae": Alias("vit_base_patch16_224.mae", "MAE ViT-B/16 (non-commercial licence)"),
    "sam": Alias("samvit_base_patch16.sa1b", "Segment Anything image encoder ViT-B/16"),
    "vit": Alias("vit_small_patch16_224.augreg_in21k_ft_in1k", "supervised ViT-S/16"),
    "vit-base": Alias("vit_base_patch16_224.augreg2_in21k_ft_in1k", "supervised ViT-B/16"),
    "resnet50": Alias("resnet50.a1_in1k", "ResNet-50"),
    "convnext": Alias("convnext_tiny.in12k_ft_in1k", "ConvNeXt-T"),
    "swin": Alias("swin_tiny_patch4_window7_224.ms_in1k", "Swin-T"),
    "mobilenetv2": Alias("mobilenetv2_100.ra_in1k", "MobileNetV2 1.0"),
    "efficientnet": Alias("efficientnet_b0.ra_in1k", "EfficientNet-B0"),
}


def resolve_alias(name: str) -> str:
    """The timm name or "tiny" that `name` stands for; any other name or reference comes back unchanged."""
    alias = ALIASES.get(name)
    return alias.reference if alias else name


def parse_model_args(pairs: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` texts, as given to `--backbone-arg`.

    A value becomes an int, float, bool (true/false), None (none), a tuple of those (comma between them), or stays
    a string. A later pair overrides an earlier one of the same key.

    Raises:
        UsageError: a text is not `key=value` with a key that Python could use as an argument name.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = (part.strip() for part in pair.partition("="))
        items = tuple(_parse_value(item.strip()) for item in value.split(","))
        if not separator or not key.isidentifier() or "" in items:
            raise UsageError(f"--backbone-arg '{pair}' is not KEY=VALUE, as in pad_type=same or mean=0.5,0.5,0.5")
        arguments[key] = items if "," in value else items[0]
    return arguments


def _parse_value(text: str) -> Any:
    constants = {"true": True, "false": False, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
