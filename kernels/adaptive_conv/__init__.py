"""FeatUp's per-pixel filter."""

from featup_kernels.adaptive_conv.op import adaptive_conv

__all__ = ["adaptive_conv"]
