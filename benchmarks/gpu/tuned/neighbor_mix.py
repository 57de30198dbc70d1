"""The kernels of `neighbor_mix`, and records beside the chosen ones."""

from __future__ import annotations

from featup_kernels.launch import TapsConfig
from featup_kernels.neighbor_mix import configs
from featup_kernels.operation import Case

from benchmarks.gpu.tuned.kernel import Kernel, d_source_arguments, d_taps_arguments, half, inputs


def forward_others(config: configs.ForwardConfig, case: Case) -> list[dict[str, int]]:
    return [
        {"rows": half(config.rows)},
        {"rows": configs.rows_in_two_cells(case.height, case.lr_size[0], config.rows * 2)},
        {"channels": config.channels * 2},
        {"chunk": config.chunk * 2},
        {"chunk": config.chunk * 4},
        {"chunk": max(config.channels, config.chunk // 2)},
        {"block": config.block // 2},
        {"block": config.block * 2},
    ]


def source_others(config: configs.SourceConfig, case: Case) -> list[dict[str, int]]:
    return [
        {"lr_rows": 1},
        {"lr_columns": half(config.lr_columns)},
        {"lr_columns": config.lr_columns * 2},
        {"channels": half(config.channels)},
        {"channels": config.channels * 2},
        {"block": max(16, config.block // 2)},
        {"threads": 64},
        {"threads": 256},
    ]


def taps_others(config: TapsConfig, case: Case) -> list[dict[str, int]]:
    return [
        {"tap_rows": 1},
        {"rows": half(config.rows)},
        {"rows": configs.rows_in_two_cells(case.height, case.lr_size[0], config.rows * 2)},
        {"block": config.block * 2},
        {"parts": config.parts * 2},
        {"parts": config.parts * 4},
        {"parts": half(config.parts), "block": config.block * 2},
    ]


def forward_config(case: Case) -> configs.ForwardConfig:
    return configs.forward_config(case.channels, case.height, case.lr_size[0], case.window)


def d_source_config(case: Case) -> configs.SourceConfig:
    return configs.source_config(case.channels, case.lr_size[1], case.width, case.window)


def d_taps_config(case: Case) -> TapsConfig:
    return configs.taps_config(case.channels, case.height, case.lr_size[0], case.window)


NAME = "neighbor_mix"
KERNELS = (
    Kernel(NAME, "forward", inputs, forward_config, forward_others),
    Kernel(NAME, "d_source", d_source_arguments, d_source_config, source_others),
    Kernel(NAME, "d_taps", d_taps_arguments, d_taps_config, taps_others),
)
