"""The records of the methods that ask the backbone for more tokens."""

from __future__ import annotations

from featup_cli.upsamplers.method import Method, Needs

STRIDED = Method(
    "strided",
    "runs a ViT with overlapping patches (Amir et al., 2021; FeatUp, section 6.2); seconds a picture",
    "Amir et al. (2021); FeatUp, section 6.2",
    "featup_cli.upsamplers.denser.upsampler:build",
    needs=Needs.BACKBONE,
    per_picture=True,
)
LARGE_IMAGE = Method(
    "large-image",
    "runs the backbone on an enlarged picture (FeatUp, section 4); up to 64 times its cost",
    "FeatUp, section 4",
    "featup_cli.upsamplers.denser.upsampler:build",
    needs=Needs.BACKBONE,
    per_picture=True,
)
DILATED = Method(
    "dilated",
    "runs a convolutional network with dilations instead of its last strides (Yu and Koltun, 2016); seconds a picture",
    "Yu and Koltun (2016); FeatUp, section 2",
    "featup_cli.upsamplers.denser.upsampler:build",
    needs=Needs.BACKBONE,
    per_picture=True,
)
METHODS = (STRIDED, LARGE_IMAGE, DILATED)
