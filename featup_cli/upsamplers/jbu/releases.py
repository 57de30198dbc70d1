"""The upsamplers that the authors of FeatUp released: names, and what each is for."""

from __future__ import annotations

from typing import Any

from featup_cli.upsamplers.jbu.method import JBU, RELEASED
from featup_cli.upsamplers.weights.releases import Release

LICENSE = "MIT (the licence of github.com/mhamilton723/FeatUp)"
_ROOT = "https://marhamilresearch4.blob.core.windows.net/feature-upsampling-public/pretrained/"


def _vit(name: str, stride: int) -> dict[str, Any]:
    return {"name": name, "channels": 384, "stride": stride, "layer": 11, "norm_applied": True}


# What the features of each were, as `backbone_identity` puts it. CLIP's are not those of the timm model, whose tokens
# have 768 channels before the projection.
_BACKBONES: dict[str, dict[str, Any]] = {
    "dino16": _vit("vit_small_patch16_224.dino", 16),
    "dinov2": _vit("vit_small_patch14_dinov2.lvd142m", 14),
    "clip": {"name": "OpenAI CLIP ViT-B/16 with its tokens projected to text space", "channels": 512, "stride": 16},
    "maskclip": {"name": "MaskCLIP ViT-B/16 (CLIP's last values in text space)", "channels": 512, "stride": 16},
    "vit": _vit("vit_small_patch16_224.augreg_in21k_ft_in1k", 16),
    "resnet50": {
        "name": "resnet50.tv_in1k", "channels": 2048, "stride": 32, "layer": 4, "norm_applied": False,
    },
}  # fmt: skip
_WITHOUT_NORM_ONLY = ("maskclip",)


def _releases() -> dict[str, Release]:
    found = {}
    for name, backbone in _BACKBONES.items():
        # `dino16` is the variant with a norm (FeatUp's own default), `dino16-no-norm` the other one.
        for normed in (True, False) if name not in _WITHOUT_NORM_ONLY else (False,):
            asked = name if normed or name in _WITHOUT_NORM_ONLY else f"{name}-no-norm"
            file_name = f"{name}_jbu_stack_cocostuff.ckpt"
            # Both variants have one file name on the server; torch.hub, which FeatUp's own code uses for the normed
            # one, would take one for the other.
            kept = file_name if normed else f"no_norm_{file_name}"
            url = f"{_ROOT}{'' if normed else 'no_norm/'}{file_name}"
            found[asked] = Release(asked, JBU.name, RELEASED.kind, url, file_name, kept, normed, backbone, LICENSE)
    return found


RELEASES = _releases()
