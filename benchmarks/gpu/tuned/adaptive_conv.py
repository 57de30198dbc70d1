"""The kernels of `adaptive_conv`, and records beside the chosen ones."""

from __future__ import annotations

from featup_kernels.adaptive_conv.configs import FilterConfig, filter_config, taps_config
from featup_kernels.launch import TapsConfig
from featup_kernels.operation import Case

from benchmarks.gpu.tuned.kernel import Kernel, d_source_arguments, d_taps_arguments, half, inputs


def filter_others(config: FilterConfig, case: Case) -> list[dict[str, int]]:
    """Rows, channels, threads, and how these are shared between pixels and channels."""
    return [
        {"rows": half(config.rows)},
        {"rows": config.rows * 2},
        {"channels": half(config.channels)},
        {"channels": config.channels * 2},
        {"block": config.block * 2},
        {"block": max(32, config.block // 2)},
        {"parts": config.parts * 2},
        {"block": config.block * 2, "parts": half(config.parts)},
    ]


def taps_others(config: TapsConfig, case: Case) -> list[dict[str, int]]:
    """Rows of taps and of pixels, and threads for pixels and for channels."""
    return [
        {"tap_rows": 1},
        {"rows": half(config.rows)},
        {"rows": config.rows * 2},
        {"block": config.block * 2},
        {"parts": config.parts * 2},
        {"parts": config.parts * 4},
        {"parts": half(config.parts), "block": config.block * 2},
    ]


def forward_config(case: Case) -> FilterConfig:
    return filter_config(case.channels, case.height, case.window)


def d_source_config(case: Case) -> FilterConfig:
    return filter_config(case.channels, case.padded[0], case.window)


def d_taps_config(case: Case) -> TapsConfig:
    return taps_config(case.batch, case.channels, case.height, case.width, case.window)


NAME = "adaptive_conv"
KERNELS = (
    Kernel(NAME, "forward", inputs, forward_config, filter_others),
    Kernel(NAME, "d_source", d_source_arguments, d_source_config, filter_others),
    Kernel(NAME, "d_taps", d_taps_arguments, d_taps_config, taps_others),
)
