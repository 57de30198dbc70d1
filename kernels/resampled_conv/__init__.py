"""The per-pixel filter on a source that is resampled while it is read."""

from featup_kernels.resampled_conv.op import Axis, resampled_conv, resampled_conv_runs_fused

__all__ = ["Axis", "resampled_conv", "resampled_conv_runs_fused"]
