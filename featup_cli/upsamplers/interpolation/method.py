"""The records of the unguided interpolations."""

from __future__ import annotations

from featup_cli.upsamplers.method import Method, Needs


def _interpolation(name: str, about: str, source: str) -> Method:
    build = "featup_cli.upsamplers.interpolation.upsampler:build"
    return Method(name, about, source, build, needs=Needs.FEATURES, light=True)


NEAREST = _interpolation("nearest", "copies each token to its cell", "FeatUp, section 4")
BILINEAR = _interpolation("bilinear", "interpolates between tokens", "FeatUp, section 4")
BICUBIC = _interpolation("bicubic", "interpolates with a cubic kernel", "Keys (1981)")
METHODS = (NEAREST, BILINEAR, BICUBIC)
