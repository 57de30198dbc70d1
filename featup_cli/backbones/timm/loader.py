"""timm's models as backbones: the record, and short names for the best known."""

from __future__ import annotations

from featup_cli.backbones.loader import Alias, Loader

ALIASES: dict[str, Alias] = {
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

LOADER = Loader(
    "timm",
    "featup_cli.backbones.timm.model:load_timm",
    ALIASES,
    any_name=True,
    recognize="featup_cli.backbones.timm.model:recognize",
    check="featup_cli.backbones.timm.names:check",
)
